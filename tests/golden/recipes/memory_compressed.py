"""memory-compressed-attention's MemoryCompressedAttention, and torch's conv1d before its attention."""

import numpy as np
from frame import generator, heads_qkv, np_attention, qkv_case, randomise, tensor, torch_attention

HEADS, WIDTH, FACTOR = 2, 4, 3


def np_memory_compressed(q, k, v, key_kernel, value_kernel, nulls=None, *, causal=False, key_mask=None,
                         scale=None):
    """Slot by slot and position by position. `nulls` is the key and the value of the null slot."""
    n, m, c = q.shape[-2], k.shape[-2], key_kernel.shape[-3]
    known = np.ones((*k.shape[:-2], m), bool) if key_mask is None else np.broadcast_to(
        key_mask, (*k.shape[:-2], m))
    keys, values, seen = [], [], []
    for start in range(0, m, c):
        inside = range(start, min(start + c, m))
        for slots, x, kernel in ((keys, k, key_kernel), (values, v, value_kernel)):
            slots.append(sum(np.einsum("...i,...io->...o", np.where(known[..., j, None], x[..., j, :], 0.0),
                                       kernel[..., j - start, :, :]) for j in inside))
        ended = np.array([not causal or start + c - 1 <= i + m - n for i in range(n)])
        seen.append(ended & np.any([known[..., j] for j in inside], axis=0)[..., None])
    if nulls is not None:
        for slots, null in zip((keys, values), nulls, strict=True):
            slots.insert(0, np.broadcast_to(null[..., 0, :], slots[0].shape))
        seen.insert(0, np.ones_like(seen[0]))
    keys, values = (np.stack(slots, axis=-2) for slots in (keys, values))
    return np_attention(q, keys, values, np.stack(seen, axis=-1), scale=scale)[0]


def cases(_):
    import torch
    from memory_compressed_attention import MemoryCompressedAttention

    cases = {}

    def add_package(name, n, causal):
        rng = generator("memory_compressed/" + name)
        dim = HEADS * WIDTH
        module = randomise(MemoryCompressedAttention(dim, HEADS, causal, FACTOR), rng)
        module.to_out.weight.copy_(tensor(np.eye(dim)))  # so that the output is the concatenated heads
        module.to_out.bias.zero_()
        module.compress_fn.conv.bias.zero_()
        x = tensor(rng.standard_normal((2, n, dim)))
        per_head = lambda y: y.unflatten(-1, (HEADS, WIDTH)).transpose(1, 2).contiguous().numpy()
        out = per_head(module(x))
        q, k, v = (per_head(y) for y in module.to_qkv(x).chunk(3, dim=-1))
        # zeros in front, where the peer puts them: keys and values are longer than the queries then
        front = np.zeros((2, HEADS, -n % FACTOR, WIDTH))
        k, v = (np.concatenate([front, y], axis=-2) for y in (k, v))
        # (heads x out, in, position) of a grouped convolution, the same one for keys and values
        kernel = np.moveaxis(module.compress_fn.conv.weight.unflatten(0, (HEADS, WIDTH)).numpy(), 1, -1)
        kernel = np.ascontiguousarray(kernel.swapaxes(1, 2))
        nulls = [per_head(null)[0] for null in (module.null_k, module.null_v)]
        # a mask of the set, all of it True, leaves the null slot alone: the peer's masks are of no use
        spoilt = per_head(module(x, input_mask=torch.ones(2, n, dtype=torch.bool)))
        assert causal or np.allclose(spoilt, nulls[1])
        call = {"key_kernel": kernel, "value_kernel": kernel, "null_key": nulls[0], "null_value": nulls[1],
                "causal": causal, "scale": dim**-0.5}
        restated = np_memory_compressed(q, k, v, kernel, kernel, nulls, causal=causal, scale=dim**-0.5)
        cases[name] = qkv_case("memory-compressed-attention", (q, k, v), out, restated, call)

    add_package("whole_blocks", 12, False)
    add_package("ragged", 13, False)
    add_package("whole_blocks_causal", 12, True)
    add_package("ragged_causal", 14, True)

    def add_torch(name, n, m, c, *, per_head=False, null=False, causal=False, masked=False):
        rng = generator("memory_compressed/" + name)
        q, k, v = heads_qkv(rng, n, m)
        d, e = q.shape[-1], v.shape[-1]
        lead = (HEADS,) if per_head else ()
        kernels = [rng.standard_normal((*lead, c, width, width)) / np.sqrt(c * width) for width in (d, e)]
        nulls = [rng.standard_normal((*lead, 1, width)) for width in (d, e)] if null else None
        key_mask = np.ones((2, 1, m), bool)
        if masked:
            key_mask[0, 0, 2 * c:3 * c + 1] = key_mask[1, 0, :c] = key_mask[1, 0, -2] = False

        def compress(x, kernel, place):
            x = torch.nn.functional.pad(tensor(np.where(key_mask[..., None], x, 0.0)), (0, 0, 0, -m % c))
            heads = [torch.nn.functional.conv1d(
                x[:, h].mT, tensor(kernel[h] if per_head else kernel).permute(2, 1, 0), stride=c).mT
                for h in range(HEADS)]
            slots = torch.stack(heads, dim=1)
            if null:
                first = tensor(nulls[place]).expand(2, HEADS, 1, -1)
                slots = torch.cat([first, slots], dim=2)
            return slots.numpy()

        keys, values = compress(k, kernels[0], 0), compress(v, kernels[1], 1)
        end = torch.arange(c - 1, m + c - 1, c)
        seen = (end <= torch.arange(m - n, m)[:, None]) | (not causal)
        padded = torch.nn.functional.pad(tensor(key_mask), (0, -m % c), value=False)
        seen = seen & padded.unflatten(-1, (-1, c)).any(-1)[..., None, :]
        if null:
            seen = torch.nn.functional.pad(seen, (1, 0), value=True)
        out, _ = torch_attention(q, keys, values, seen)
        call = {"key_kernel": kernels[0], "value_kernel": kernels[1], "causal": causal}
        if null:
            call |= {"null_key": nulls[0], "null_value": nulls[1]}
        if masked:
            call["key_mask"] = key_mask
        restated = np_memory_compressed(q, k, v, *kernels, nulls, causal=causal, key_mask=key_mask)
        cases[name] = qkv_case("torch", (q, k, v), out, restated, call)

    add_torch("more_keys", 9, 14, 3)
    add_torch("more_queries_per_head", 14, 9, 2, per_head=True)
    add_torch("causal_more_keys", 11, 14, 4, causal=True)  # the first query has one block behind it
    add_torch("causal_more_queries", 14, 10, 4, causal=True)  # rows that see nothing
    add_torch("key_mask", 13, 13, 3, masked=True)
    add_torch("together", 11, 14, 3, per_head=True, null=True, causal=True, masked=True)
    return cases
