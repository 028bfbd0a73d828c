"""transformers' LongT5TransientGlobalAttention, which has ETC's long rows; torch with explicit biases."""

import contextlib
from unittest import mock

import numpy as np
from frame import (
    DOUBLE,
    SINGLE_SOFTMAX,
    case,
    generator,
    heads_qkv,
    np_attention,
    randomise,
    tensor,
    torch_attention,
)

STREAMS = ["q", "k", "v", "global_q", "global_k", "global_v"]


def np_long_rows(q, k, v, far_k, far_v, radius, near_bias, far_bias, valid, far_valid, scale=None):
    """Row by row: the keys within the radius, then the global ones, in one softmax."""
    batch, heads, n, _ = q.shape
    out = np.zeros((batch, heads, n, v.shape[-1]))
    for b, h, i in np.ndindex(batch, heads, n):
        near = [j for j in range(max(0, i - radius), min(n, i + radius + 1)) if valid[b, j]]
        far = np.flatnonzero(far_valid[b])
        keys, values = (np.concatenate([x[b, h, near], y[b, h, far]]) for x, y in ((k, far_k), (v, far_v)))
        bias = np.concatenate([near_bias[b, h, i, [j - i + radius for j in near]], far_bias[b, h, i, far]])
        if len(keys):
            out[b, h, i] = np_attention(q[b, h, i:i + 1], keys, values, bias=bias, scale=scale)[0][0]
    return out


def cases(_):
    import torch
    from transformers import LongT5Config
    from transformers.models.longt5 import modeling_longt5 as longt5

    cases = {}

    def add_longt5(name, n, radius, valid, *, released=False):
        rng = generator("etc/" + name)
        config = LongT5Config(d_model=8, d_kv=4, num_heads=2, local_radius=radius, global_block_size=4,
                              relative_attention_num_buckets=8, relative_attention_max_distance=20,
                              dropout_rate=0.0)
        layer = longt5.LongT5TransientGlobalAttention(config, has_relative_attention_bias=True)
        layer = randomise(layer, rng)
        layer.o.weight.copy_(torch.eye(8))
        x, mask, summaries = tensor(rng.standard_normal((2, n, 8))), tensor(valid).double(), []
        layer.global_input_layer_norm.register_forward_hook(lambda *call: summaries.append(call[-1]))
        # the peer's softmax is of scores.float(); left in float64, its numbers are sharp
        single = torch.Tensor.float
        kept = lambda y: y if y.is_floating_point() else single(y)
        sharp = mock.patch.object(torch.Tensor, "float", kept)
        with contextlib.nullcontext() if released else sharp:
            out = layer(x, mask=mask)[0]
        per_head = lambda y: y.unflatten(-1, (2, 4)).transpose(1, 2).contiguous().numpy()
        q, k, v = (per_head(getattr(layer, c)(x)) for c in "qkv")
        global_k, global_v = (per_head(getattr(layer, c)(summaries[0])) for c in "kv")
        buckets = layer._relative_position_bucket(torch.arange(-radius, radius + 1), True, 8, 20)
        by_offset = layer.relative_attention_bias.weight[buckets].T.numpy()[:, None, :]
        near_bias = np.broadcast_to(by_offset, (2, 2, n, 2 * radius + 1))
        segments = longt5._make_global_fixed_block_ids(mask, 4)[1]
        far_bias = layer.compute_side_bias(mask, segments).numpy()
        far_valid = segments.numpy() > 0
        far_bias = np.where(far_bias < -1e9, 0.0, far_bias)  # its mask, which is far_valid
        restated = np_long_rows(q, k, v, global_k, global_v, radius, near_bias, far_bias, valid, far_valid,
                                scale=1.0)
        arrays = dict(q=q, k=k, v=v, global_q=np.zeros_like(global_k), global_k=global_k, global_v=global_v,
                      long_bias=near_bias[0], long_to_global_bias=far_bias, key_mask=valid[:, None, :],
                      global_key_mask=far_valid[:, None, :])
        call = {"inputs": STREAMS, "arrays": sorted(set(arrays) - set(STREAMS)), "radius": radius,
                "scale": 1.0, "result": 0}
        # the peer's padded queries see no long keys
        extra = {} if valid.all() else {"rows": np.repeat(valid[:, None, :], 2, axis=1)}
        cases[name] = case("transformers", arrays, per_head(out), restated, call,
                           tolerance=SINGLE_SOFTMAX if released else DOUBLE, **extra)

    everything, padded = np.ones((2, 19), bool), np.arange(22) < np.array([[22], [13]])
    add_longt5("longt5", 19, 2, everything)
    add_longt5("longt5_padded", 22, 4, padded)
    add_longt5("longt5_released", 19, 3, everything, released=True)

    def add_torch(name, n, g, radius, *, labelled=True, own_pairs=False, hard=False, masked=False):
        rng = generator("etc/" + name)
        streams = heads_qkv(rng, n, n) + heads_qkv(rng, g, g)
        q, k, v, global_q, global_k, global_v = streams
        long_pair, far_pair = (k, v), (global_k, global_v)
        call, arrays = {"inputs": STREAMS, "radius": radius}, dict(zip(STREAMS, streams, strict=True))

        biases = {"long_bias": (n, 2 * radius + 1), "long_to_global_bias": (n, g), "global_bias": (g, g),
                  "global_to_long_bias": (g, n)}
        biases = {key: np.zeros((2, 2, *own)) for key, own in biases.items()}
        if labelled:
            table, beta = rng.standard_normal((2, 6, 4)), rng.standard_normal((2, 6))
            for key, x in biases.items():
                label = rng.integers(0, 6, x.shape[2:])
                source = q if key.startswith("long") else global_q
                vectors = table[:, label]  # (heads, queries, keys, d)
                biases[key] = (np.einsum("bhid,hijd->bhij", source, vectors) + beta[:, label]) / 2
        if hard:  # a global token sees its own segment alone
            apart = np.arange(n) * g // n != np.arange(g)[:, None]
            biases["global_to_long_bias"] = np.where(apart, -np.inf, biases["global_to_long_bias"])
        if labelled or hard:
            arrays |= biases
            call["arrays"] = sorted(biases)
        if own_pairs:
            long_pair, far_pair = heads_qkv(rng, n, n)[1:], heads_qkv(rng, g, g)[1:]
            call["pairs"] = {"long_seen_by_global": ["long_k", "long_v"],
                             "global_seen_by_long": ["far_k", "far_v"]}
            arrays |= dict(zip(["long_k", "long_v", "far_k", "far_v"], long_pair + far_pair, strict=True))
        valid, far_valid = np.ones((2, n), bool), np.ones((2, g), bool)
        if masked:
            valid, far_valid = rng.random((2, n)) < 0.6, rng.random((2, g)) < 0.6
            valid[0, 4:8], far_valid[0] = False, False  # long row 6 of the first sequence sees nothing
            arrays |= {"key_mask": valid[:, None, :], "global_key_mask": far_valid[:, None, :]}
            call["arrays"] = sorted([*call["arrays"], "key_mask", "global_key_mask"])

        offset = np.arange(n) - np.arange(n)[:, None]
        band = np.where(abs(offset) <= radius, np.take_along_axis(
            biases["long_bias"], (offset + radius).clip(0, 2 * radius)[None, None], axis=-1), -np.inf)
        hide = [np.where(x, 0.0, -np.inf)[:, None, None, :] for x in (valid, far_valid)]

        def joined(query, first, second, bias):
            keys, values = (np.concatenate(x, axis=-2) for x in zip(first, second, strict=True))
            return torch_attention(query, keys, values, bias=np.concatenate(bias, axis=-1))[0]

        long = joined(q, (k, v), far_pair, [band + hide[0], biases["long_to_global_bias"] + hide[1]])
        wide = joined(global_q, (global_k, global_v), long_pair,
                      [biases["global_bias"] + hide[1], biases["global_to_long_bias"] + hide[0]])
        long_again = np_long_rows(q, k, v, *far_pair, radius, biases["long_bias"],
                                  biases["long_to_global_bias"], valid, far_valid)
        keys, values = (np.concatenate(x, axis=-2) for x in zip((global_k, global_v), long_pair, strict=True))
        seen = np.concatenate([far_valid, valid], axis=-1)[:, None, None, :]
        wide_again, _ = np_attention(global_q, keys, values, seen, bias=np.concatenate(
            [biases["global_bias"], biases["global_to_long_bias"]], axis=-1))
        cases[name] = case("torch", arrays, np.concatenate([long, wide], axis=-2),
                           np.concatenate([long_again, wide_again], axis=-2), call)

    add_torch("plain", 11, 3, 2, labelled=False)
    add_torch("labels", 11, 3, 3)
    add_torch("own_projections", 9, 4, 2, own_pairs=True)
    add_torch("hard_segments", 12, 3, 1, labelled=False, hard=True)
    add_torch("masked", 11, 3, 1, masked=True)
    return cases
