"""compressive-transformer-pytorch's SelfAttention; torch's pooling and convolutions."""

import numpy as np
from frame import case, generator, np_attention, randomise, table, tensor

HEADS, WIDTH = 2, 4


def split(x):
    """(B, n, HEADS * WIDTH) -> (B, HEADS, n, WIDTH)"""
    return x.unflatten(-1, (HEADS, WIDTH)).transpose(1, 2).contiguous().numpy()


def np_by_distance(q, relative_keys, m):
    """q_i . r_t at the key that lies t positions behind, zero elsewhere: looked up, nothing is shifted."""
    n = q.shape[-2]
    out = np.zeros((*q.shape[:-1], m))
    for i, j in np.ndindex(n, m):
        if i + m - n >= j:
            out[..., i, j] = (q[..., i, :] * relative_keys[..., i + m - n - j, :]).sum(-1)
    return out


def cases(_):
    import torch
    from compressive_transformer_pytorch.compressive_transformer_pytorch import SelfAttention

    cases = {}

    def layer_and_inputs(name, recent, slots, *, ratio=2, segment=6):
        rng = generator("compressive_transformer/" + name)
        layer = SelfAttention(HEADS * WIDTH, segment, max(recent, segment), 8, ratio, HEADS)
        layer = randomise(layer, rng)
        layer.to_out.weight.copy_(tensor(np.eye(8)))  # so that the output is the concatenated heads
        layer.to_out.bias.zero_()
        layer.compress_mem_fn.conv.bias.zero_()
        x, memory, compressed = (tensor(rng.standard_normal((2, n, 8))) for n in (segment, recent, slots))
        return layer, x, memory, compressed, rng

    def add_attention(name, recent, slots, *, masked=False):
        layer, x, memory, compressed, rng = layer_and_inputs(name, recent, slots)
        total = slots + recent + 6
        by_place = rng.standard_normal((HEADS, total, WIDTH))
        key_mask = np.arange(6) != [[[2]], [[4]]] if masked else None
        out, *_ = layer(x, (memory, compressed), tensor(by_place),
                        input_mask=None if key_mask is None else tensor(key_mask[:, 0]))
        q = split(layer.to_q(x))
        (k, v), near, far = ([split(y) for y in layer.to_kv(rows).chunk(2, -1)]
                             for rows in (x, memory, compressed))
        relative_keys = by_place[:, ::-1].copy()  # the peer's last row is for distance 0
        keys, values = (np.concatenate(parts, axis=-2) for parts in zip(far, near, (k, v), strict=True))
        visible = table(6, total, lambda p, j: j <= p)
        arrays = {"q": q, "k": k, "v": v, "relative_keys": relative_keys, "memory/k": near[0],
                  "memory/v": near[1], "compressed/k": far[0], "compressed/v": far[1]}
        pairs = {name: [f"{name}/k", f"{name}/v"] for name in ("memory", "compressed")}
        call, rows = {"arrays": ["relative_keys"], "pairs": pairs}, {}
        if masked:
            arrays["key_mask"] = key_mask
            call["arrays"].append("key_mask")
            visible = visible & np.concatenate([np.ones((2, 1, total - 6), bool), key_mask], -1)[:, :, None]
            # in the peer a masked query sees nothing, not even the memories
            rows["rows"] = np.repeat(key_mask, HEADS, axis=1)
        restated, _ = np_attention(q, keys, values, visible,
                                   bias=np_by_distance(q, relative_keys, total) * WIDTH**-0.5)
        cases[name] = case("compressive-transformer-pytorch", arrays, split(out), restated, call, **rows)

    add_attention("no_memories", 0, 0)
    add_attention("memory", 6, 0)
    add_attention("both", 6, 5)
    add_attention("key_mask", 6, 5, masked=True)

    def add_compression(name, peer, function, x, out, restated, **parameters):
        arrays = {key: value for key, value in parameters.items() if isinstance(value, np.ndarray)}
        call = {key: value for key, value in parameters.items() if key not in arrays}
        call |= {"function": function, "inputs": ["x"], "arrays": sorted(arrays)}
        cases[name] = case(peer, {"x": x} | arrays, out.numpy(), restated, call)

    # what leaves the peer's memory of 6 as a segment of 6 comes in, compressed
    layer, x, memory, compressed, rng = layer_and_inputs("conv", 6, 5, ratio=3)
    _, after, _ = layer(x, (memory, compressed))
    np.testing.assert_array_equal(after.mem, x)
    np.testing.assert_array_equal(after.compressed_mem[:, :5], compressed)
    kernel = np.moveaxis(layer.compress_mem_fn.conv.weight.numpy(), -1, 0).swapaxes(1, 2).copy()
    old = memory.numpy()
    restated = sum(old[:, s::3] @ kernel[s] for s in range(3))
    add_compression("conv", "compressive-transformer-pytorch", "compress_conv", old,
                    after.compressed_mem[:, 5:], restated, kernel=kernel)

    rng = generator("compressive_transformer/pooling")
    x = rng.standard_normal((2, 12, 5))
    channels_first = lambda y: tensor(y).transpose(1, 2)
    groups = x.reshape(2, 4, 3, 5)
    for name, pool, restated in (("mean", torch.nn.functional.avg_pool1d, groups.mean(2)),
                                 ("max", torch.nn.functional.max_pool1d, groups.max(2))):
        add_compression(name, "torch", f"compress_{name}", x, pool(channels_first(x), 3).transpose(1, 2),
                        restated, rate=3)

    rng = generator("compressive_transformer/dilated")
    x, kernels = rng.standard_normal((2, 16, 4)), rng.standard_normal((3, 2, 4, 4)) / 2
    y, restated = channels_first(x), x
    for layer_number, kernel in enumerate(kernels):
        if layer_number:
            y, restated = y.relu(), np.maximum(restated, 0)
        hop = 2**layer_number
        y = torch.nn.functional.conv1d(y, tensor(kernel).permute(2, 1, 0), dilation=hop)
        restated = restated[:, :-hop] @ kernel[0] + restated[:, hop:] @ kernel[1]
    add_compression("dilated", "torch", "compress_dilated", x, y.transpose(1, 2)[:, ::8], restated[:, ::8],
                    kernels=kernels)

    rng = generator("compressive_transformer/most_used")
    x, usage = rng.standard_normal((2, 12, 4)), rng.random((2, 12))
    places = tensor(usage).topk(4).indices.sort().values
    out = torch.take_along_dim(tensor(x), places[..., None], dim=1)
    largest = [sorted(sorted(range(12), key=lambda j, row=row: -row[j])[:4]) for row in usage]
    restated = np.stack([rows[chosen] for rows, chosen in zip(x, largest, strict=True)])
    add_compression("most_used", "torch", "compress_most_used", x, out, restated, usage=usage, rate=3)

    def np_change(q, old, new):
        return np_attention(q, *old)[0] - np_attention(q, *new)[0]

    def loss_of_a_layer(name, recent):
        """The peer's mean of squares times their number; q, the memory, what left it and its compression."""
        layer, x, memory, compressed, _ = layer_and_inputs(name, recent, 5)
        layer.train()
        loss = layer(x, (memory, compressed))[2]
        leaving = memory[:, :6]
        pairs = [[split(y) for y in layer.to_kv(rows).chunk(2, -1)]
                 for rows in (memory, leaving, layer.compress_mem_fn(leaving))]
        q = split(layer.to_q(x))
        return np.float64(loss) * q.size, q, *pairs

    loss, q, _, old, new = loss_of_a_layer("reconstruction", 6)
    arrays = dict(zip(("q", "old_k", "old_v", "new_k", "new_v"), (q, *old, *new), strict=True))
    cases["reconstruction"] = case(
        "compressive-transformer-pytorch", arrays, loss, np.sum(np_change(q, old, new) ** 2),
        {"function": "reconstruction_loss", "inputs": list(arrays)})
    # a memory longer than the segment: the peer holds all of it against the compression of what leaves it
    loss, q, everything, old, new = loss_of_a_layer("reconstruction_of_all", 9)
    np.testing.assert_allclose(loss, np.sum(np_change(q, everything, new) ** 2), rtol=1e-13)
    assert abs(loss - np.sum(np_change(q, old, new) ** 2)) > 1
    return cases
