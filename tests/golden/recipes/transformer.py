"""torch's multi-head attention, encoder layer, linear layers and norm; a reversible block around them."""

import numpy as np
from frame import case, generator, np_attention, randomise, table, tensor


def np_norm(x, gain, bias):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * gain + bias


def np_multi_head(x, context, weights, heads, visible=True):
    split = lambda y: np.stack(np.split(y, heads, axis=-1), axis=-3)
    q = split(x @ weights["wq"] + weights["bq"])
    k, v = (split(context @ weights["w" + c] + weights["b" + c]) for c in "kv")
    out, _ = np_attention(q, k, v, visible)
    return np.concatenate(np.moveaxis(out, -3, 0), axis=-1) @ weights["wo"] + weights["bo"]


def np_feed_forward(x, weights):
    return np.maximum(x @ weights["w1"] + weights["b1"], 0) @ weights["w2"] + weights["b2"]


def np_encoder(x, weights, heads, norm, visible=True):
    norm1, norm2 = (lambda y, i=i: np_norm(y, weights[f"g{i}"], weights[f"n{i}"]) for i in (1, 2))
    if norm == "post":
        y = norm1(x + np_multi_head(x, x, weights, heads, visible))
        return norm2(y + np_feed_forward(y, weights))
    z = norm1(x)
    y = x + np_multi_head(z, z, weights, heads, visible)
    return y + np_feed_forward(norm2(y), weights)


def multi_head_weights(module):
    """torch packs the three projections into rows of one (3 D, D) matrix for `w @ x`."""
    weights = {}
    for c, w, b in zip("qkv", module.in_proj_weight.chunk(3), module.in_proj_bias.chunk(3), strict=True):
        weights |= {"w" + c: w.numpy().T, "b" + c: b.numpy()}
    return weights | {"wo": module.out_proj.weight.numpy().T, "bo": module.out_proj.bias.numpy()}


def encoder_weights(layer):
    weights = multi_head_weights(layer.self_attn)
    for i, linear, norm in ((1, layer.linear1, layer.norm1), (2, layer.linear2, layer.norm2)):
        weights |= {f"w{i}": linear.weight.numpy().T, f"b{i}": linear.bias.numpy()}
        weights |= {f"g{i}": norm.weight.numpy(), f"n{i}": norm.bias.numpy()}
    return weights


def cases(_):
    import torch
    from torch import nn

    cases = {}
    width, heads, n, m = 8, 2, 12, 15

    def add(name, function, inputs, weights, out, restated, call=None, peer="torch", **extra):
        call = {"function": function, "inputs": list(inputs), "weights": sorted(weights)} | (call or {})
        stored = {f"weights/{key}": value for key, value in weights.items()}
        cases[name] = case(peer, inputs | stored, out.numpy(), restated, call, **extra)

    for name, keys in (("multi_head", n), ("cross", m), ("cross_key_mask", m)):
        rng = generator("transformer/" + name)
        module = randomise(nn.MultiheadAttention(width, heads, batch_first=True), rng)
        x = rng.standard_normal((2, n, width))
        context = x if name == "multi_head" else rng.standard_normal((2, keys, width))
        weights = multi_head_weights(module)
        visible, hidden, call, extra = True, None, {"heads": heads}, {}
        if name == "cross_key_mask":
            key_mask = rng.random((2, 1, keys)) < 0.6
            hidden, visible = tensor(~key_mask[:, 0]), key_mask[:, :, None, :]
            call["attend"], extra = {"arrays": ["key_mask"]}, {"attend/key_mask": key_mask}
        out, _ = module(*map(tensor, (x, context, context)), key_padding_mask=hidden, need_weights=False)
        restated = np_multi_head(x, context, weights, heads, visible)
        add(name, "multi_head", {"x": x, "context": context}, weights, out, restated, call, **extra)

    for name, norm in (("encoder_post", "post"), ("encoder_pre", "pre"), ("encoder_causal", "post")):
        rng = generator("transformer/" + name)
        layer = nn.TransformerEncoderLayer(
            width, heads, 12, dropout=0.0, batch_first=True, norm_first=norm == "pre"
        )
        layer = randomise(layer, rng)
        x, weights = rng.standard_normal((2, n, width)), encoder_weights(layer)
        call, visible, hidden = {"heads": heads, "norm": norm}, True, None
        if name == "encoder_causal":
            call["attend"] = {"causal": True}
            visible, hidden = table(n, n, lambda p, j: j <= p), torch.ones(n, n, dtype=bool).triu(1)
        out = layer(tensor(x), src_mask=hidden)
        restated = np_encoder(x, weights, heads, norm, visible)
        add(name, "encoder_block", {"x": x}, weights, out, restated, call)

    rng = generator("transformer/feed_forward")
    up, down = randomise(nn.Linear(width, 12), rng), randomise(nn.Linear(12, width), rng)
    x = rng.standard_normal((2, n, width))
    weights = {"w1": up.weight.numpy().T, "b1": up.bias.numpy()}
    weights |= {"w2": down.weight.numpy().T, "b2": down.bias.numpy()}
    add("feed_forward", "feed_forward", {"x": x}, weights, down(torch.relu(up(tensor(x)))),
        np_feed_forward(x, weights))

    rng = generator("transformer/layer_norm")
    x, gain, bias = rng.standard_normal((2, n, width)), *rng.standard_normal((2, width))
    out = nn.functional.layer_norm(tensor(x), (width,), tensor(gain), tensor(bias))
    add("layer_norm", "layer_norm", {"x": x, "gain": gain, "bias": bias}, {}, out, np_norm(x, gain, bias))

    from reformer_pytorch.reversible import ReversibleBlock

    rng = generator("transformer/reversible")
    layer = randomise(nn.TransformerEncoderLayer(width, heads, 12, dropout=0.0, batch_first=True), rng)
    block = ReversibleBlock(
        lambda y: layer.self_attn(*[layer.norm1(y)] * 3, need_weights=False)[0],
        lambda y: layer.linear2(torch.relu(layer.linear1(layer.norm2(y)))),
    )
    weights, norm = encoder_weights(layer), {}
    for i in (1, 2):
        norm[i] = lambda y, i=i: np_norm(y, weights[f"g{i}"], weights[f"n{i}"])
    x1, x2 = rng.standard_normal((2, 2, n, width))
    y = block(tensor(np.concatenate([x1, x2], axis=-1)))
    y1 = x1 + np_multi_head(norm[1](x2), norm[1](x2), weights, heads)
    y2 = x2 + np_feed_forward(norm[2](y1), weights)
    streams = lambda z: torch.cat(z.detach().chunk(2, dim=-1), dim=-2)  # as one array, as the test does
    add("reversible", "reversible_block", {"x1": x1, "x2": x2}, weights, streams(y),
        np.concatenate([y1, y2], axis=-2), {"heads": heads}, "reformer-pytorch")
    back, _ = block.backward_pass(y.clone(), torch.zeros_like(y))
    add("reversible_inverse", "reversible_inverse", {"y1": y1, "y2": y2}, weights, streams(back),
        np.concatenate([x1, x2], axis=-2), {"heads": heads}, "reformer-pytorch")
    return cases
