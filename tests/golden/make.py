"""Write the golden files of this folder: numbers that outside implementations of the papers return.

A developer runs this by hand in an environment that holds the peers (README.md says how); the tests only
read the `.npz` files. Inputs come from seeded generators. Every case is compared here with a plain NumPy
restatement of what the peer is supposed to compute, so that a wrong mapping of axes, weights or masks stops
the script. The restatements share no code with the packages under test, nor pattern masks with the peers.
No draw of torch survives: parameters and projections are overwritten, so only the generators seed anything.
"""

import argparse
import ast
import contextlib
import hashlib
import importlib.metadata
import io
import json
import sys
import types
from pathlib import Path
from unittest import mock

import numpy as np

HERE = Path(__file__).parent
MAX_BYTES = 150_000

PEERS = {  # the versions and licences that this script was written against
    "torch": ("2.13.0", "BSD-3-Clause"),
    "local-attention": ("1.11.2", "MIT"),
    "transformers": ("5.23.0", "Apache-2.0"),
    "linformer": ("0.2.3", "MIT"),
    "performer-pytorch": ("1.1.4", "MIT"),
    "pytorch-fast-transformers": ("0.4.0", "MIT"),
    "long-range-arena": ("git cd31e5c", "Apache-2.0"),
}
LRA_FILES = {  # SHA-256 of the files read from lra_benchmarks/models in a checkout
    "linear_transformer/linear_attention.py":
        "d787fa32444a7789fcada35c955d5a608085d44e28500c51bdf37a59d9f9bf8d",
    "performer/performer_attention.py":
        "ea5c6b38014670e4bf38792255b8d392725ce816db46f61fc799686a0e752c3d",
}

DOUBLE = (5e-14, "float64 throughout: the rounding of both sides, values of order one")
SINGLE_SOFTMAX = (5e-7, "float64, but the peer's softmax is forced to float32")
SINGLE = (2e-6, "float32 throughout: the peer's kernel takes nothing else")


def generator(name):
    """A generator of its own for each case: a new case leaves the numbers of the others as they were."""
    return np.random.default_rng(list(name.encode()))


def heads_qkv(rng, n, m, *, d=4, e=5, lead=(2, 2), size=1.0):
    return tuple(size * rng.standard_normal((*lead, *own)) for own in ((n, d), (m, d), (m, e)))


def tensor(array):
    import torch

    return torch.from_numpy(np.array(array))


def peer_string(name):
    version, licence = PEERS[name]
    if not version.startswith("git "):
        installed = importlib.metadata.version(name).split("+")[0]
        if installed != version:
            raise SystemExit(f"{name} {installed} is installed; these files are made with {version}")
    return f"{name} {version} ({licence})"


def case(peer, arrays, out, restated, call=None, *, tolerance=DOUBLE, paper=None, **extra):
    """One record, and how far the peer is from its restatement.

    `restated` imitates the peer; `paper`, given when that differs, is the same formula without the quirk.
    """
    call = dict(call or {})
    absolute, reason = tolerance
    out = np.asarray(out)
    rows = extra.get("rows", True)
    gap = float(np.max(np.abs(np.where(np.expand_dims(rows, -1), out - restated, 0.0))))
    if not gap <= absolute:
        raise AssertionError(f"the restatement misses {peer} by {gap:.1e}, more than {absolute:.0e}")
    record = {**arrays, **extra, "out": out}
    if paper is not None:
        moved = float(np.max(np.abs(restated - paper)))
        record |= {"restated": restated, "paper": paper, "moved": moved}
        absolute, reason = moved + absolute, f"the peer's epsilon moves the paper's form by {moved:.1e}"
    record |= {"call": json.dumps(call), "tolerance": absolute, "reason": reason, "peer": peer_string(peer)}
    return {key: np.asarray(value) for key, value in record.items()}, gap


def qkv_case(peer, qkv, out, restated, call=None, **options):
    """A record whose array-valued keyword arguments stand in `call` and are stored beside q, k and v."""
    call = dict(call or {})
    arrays = dict(zip("qkv", qkv, strict=True))
    named = {key: value for key, value in call.items() if isinstance(value, np.ndarray)}
    plain = {key: value for key, value in call.items() if key not in named}
    if named:
        plain["arrays"] = sorted(named)
    return case(peer, arrays | named, out, restated, plain, **options)


def np_attention(q, k, v, visible=True, *, bias=0.0, scale=None):
    """Masked softmax attention, row sums and all: the definition. -> (out, lse)"""
    scores = q @ k.swapaxes(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale) + bias
    scores = np.where(visible, scores, -np.inf)
    top = scores.max(-1, keepdims=True)
    top = np.where(np.isfinite(top), top, 0.0)
    weights = np.exp(scores - top)
    total = weights.sum(-1, keepdims=True)
    out = np.divide(weights @ v, total, out=np.zeros((*total.shape[:-1], v.shape[-1])), where=total > 0)
    with np.errstate(divide="ignore"):
        return out, (top + np.log(total))[..., 0]


def table(n, m, sees):
    """The boolean matrix of a predicate sees(position of the query, position of the key)."""
    return np.array([[bool(sees(i + m - n, j)) for j in range(m)] for i in range(n)])


def torch_attention(q, k, v, visible=None, *, bias=None, scale=None):
    """torch's attention with an explicit mask, and its log-sum-exp. -> (out, lse)"""
    import torch

    q, k, v = (tensor(x) for x in (q, k, v))
    k, v = (x.expand(*q.shape[:-2], *x.shape[-2:]) for x in (k, v))
    scores = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    mask = None if visible is None else torch.as_tensor(visible)
    if bias is not None:
        bias = tensor(bias)
        scores = scores + bias
        mask = bias if mask is None else bias.masked_fill(~mask, -torch.inf)
    if visible is not None:
        scores = scores.masked_fill(~torch.as_tensor(visible), -torch.inf)
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
    return out.numpy(), torch.logsumexp(scores, -1).numpy()


def attention(_):
    import torch

    cases = {}

    def add(name, qkv, peer_mask, visible, call, *, bias=None, scale=None):
        out, lse = torch_attention(*qkv, peer_mask, bias=bias, scale=scale)
        restated, lse_restated = np_attention(
            *qkv, visible, bias=0.0 if bias is None else bias, scale=scale
        )
        np.testing.assert_allclose(lse, lse_restated, rtol=0, atol=DOUBLE[0])
        cases[name] = qkv_case("torch", qkv, out, restated, call, lse=lse)

    def corner(n, m):
        return torch.ones(n, m, dtype=torch.bool).tril(m - n)

    past = lambda p, j: j <= p
    qkv = heads_qkv(generator("attention/full"), 12, 15)
    add("full", qkv, None, True, {})

    rng = generator("attention/one_kv_head")
    q, k, v = heads_qkv(rng, 12, 15)
    add("one_kv_head", (q, k[:, :1], v[:, :1]), None, True, {})

    q, k, v = qkv = heads_qkv(generator("attention/causal"), 14, 14)
    add("causal", qkv, corner(14, 14), table(14, 14, past), {"causal": True})
    built_in = torch.nn.functional.scaled_dot_product_attention(*map(tensor, qkv), is_causal=True)
    np.testing.assert_allclose(built_in, cases["causal"][0]["out"], rtol=0, atol=DOUBLE[0])

    for name, n, m in (("causal_more_keys", 9, 14), ("causal_more_queries", 13, 9)):
        add(name, heads_qkv(generator("attention/" + name), n, m), corner(n, m), table(n, m, past),
            {"causal": True})

    rng = generator("attention/key_mask")
    qkv, key_mask = heads_qkv(rng, 12, 15), rng.random((2, 1, 15)) < 0.6
    add("key_mask", qkv, key_mask[:, :, None, :], key_mask[:, :, None, :], {"key_mask": key_mask})

    rng = generator("attention/bias")
    qkv, bias = heads_qkv(rng, 12, 15), rng.standard_normal((2, 12, 15))
    add("bias", qkv, None, True, {"bias": bias}, bias=bias)

    rng = generator("attention/mask")
    qkv, mask = heads_qkv(rng, 12, 15), rng.random((2, 1, 12, 15)) < 0.4
    mask[0, 0, 3], mask[1, 0, 7] = False, True
    add("mask", qkv, mask, mask, {"mask": mask})

    rng = generator("attention/together")
    qkv, bias = heads_qkv(rng, 10, 14), rng.standard_normal((2, 10, 14))
    key_mask = rng.random(14) < 0.7
    key_mask[0] = True
    add("together", qkv, corner(10, 14) & tensor(key_mask), table(10, 14, past) & key_mask,
        {"causal": True, "key_mask": key_mask, "bias": bias, "scale": 0.3}, bias=bias, scale=0.3)
    return cases


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


def randomise(module, rng):
    """Fresh float64 parameters: torch starts biases at zero and gains at one, which would hide a swap."""
    import torch

    module = module.double().eval().requires_grad_(False)
    for parameter in module.parameters():
        values = rng.standard_normal(tuple(parameter.shape))
        parameter.copy_(tensor(values / np.sqrt(values.shape[-1]) if values.ndim > 1 else values))
    assert all(p.dtype == torch.float64 for p in module.parameters())
    return module


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


def transformer(_):
    import torch
    from torch import nn

    cases = {}
    width, heads, n, m = 8, 2, 12, 15

    def add(name, function, inputs, weights, out, restated, call=None, **extra):
        call = {"function": function, "inputs": list(inputs), "weights": sorted(weights)} | (call or {})
        stored = {f"weights/{key}": value for key, value in weights.items()}
        cases[name] = case("torch", inputs | stored, out.numpy(), restated, call, **extra)

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
    return cases


def local_attention(q, k, v, *, window, before, after, causal=False, exact=False, key_mask=None):
    """Rotary positions are on by default, and without a mask the peer attends to the tail that it pads."""
    from local_attention import LocalAttention

    module = LocalAttention(
        window, causal=causal, look_backward=before, look_forward=after, exact_windowsize=exact,
        autopad=key_mask is not None, use_rotary_pos_emb=False,
    )
    return module(*map(tensor, (q, k, v)), mask=None if key_mask is None else tensor(key_mask)).numpy()


def block_local(_):
    import torch

    cases = {}

    def visible(n, m, block, before, after, causal):
        near = lambda p, j: -before <= j // block - p // block <= after
        return table(n, m, lambda p, j: near(p, j) and (j <= p or not causal))

    def add_local(name, n, block, before, after, causal=False, key_mask=None):
        qkv = heads_qkv(generator("block_local/" + name), n, n)
        out = local_attention(
            *qkv, window=block, before=before, after=after, causal=causal, key_mask=key_mask
        )
        sees = visible(n, n, block, before, after, causal)
        call = {"block": block, "before": before, "after": after, "causal": causal}
        if key_mask is not None:
            call["key_mask"], sees = key_mask[:, None, :], sees & key_mask[:, None, None, :]
        cases[name] = qkv_case("local-attention", qkv, out, np_attention(*qkv, sees)[0], call)

    add_local("own_block", 15, 5, 0, 0)
    add_local("own_block_causal", 15, 5, 0, 0, causal=True)
    add_local("neighbours", 16, 4, 1, 1)
    add_local("before_causal", 16, 4, 1, 0, causal=True)
    add_local("two_before_one_after", 18, 3, 2, 1)
    add_local("ragged", 17, 4, 1, 1, key_mask=np.ones((2, 17), bool))
    key_mask = generator("block_local/mask").random((2, 18)) < 0.6
    key_mask[:, ::4] = True  # the peer returns a plain mean where a query sees no key
    add_local("key_mask", 18, 4, 1, 0, key_mask=key_mask)

    def add_torch(name, n, m, block, before, after, causal, key_mask):
        qkv = heads_qkv(generator("block_local/" + name), n, m)
        blocks = -(-m // block)
        near = torch.ones(blocks, blocks, dtype=torch.int64).tril(after).triu(-before)
        mask = torch.kron(near, torch.ones(block, block, dtype=torch.int64)).bool()[m - n : m, :m]
        if causal:
            mask = mask & torch.ones(n, m, dtype=torch.bool).tril(m - n)
        sees = visible(n, m, block, before, after, causal) & key_mask
        call = {"block": block, "before": before, "after": after, "causal": causal, "key_mask": key_mask}
        out, _ = torch_attention(*qkv, mask & tensor(key_mask))
        cases[name] = qkv_case("torch", qkv, out, np_attention(*qkv, sees)[0], call)

    add_torch("more_keys", 11, 18, 4, 1, 1, False, np.ones(18, bool))
    add_torch("more_keys_causal", 11, 18, 4, 1, 0, True, np.ones(18, bool))
    add_torch("empty_block", 14, 14, 4, 0, 0, False, np.arange(14) // 4 != 1)
    return cases


def sliding_window(_):
    import torch

    cases = {}

    def add_local(name, n, window, before, after, causal=False, key_mask=None):
        qkv = heads_qkv(generator("sliding_window/" + name), n, n)
        out = local_attention(
            *qkv, window=window, before=before, after=after, causal=causal, exact=True, key_mask=key_mask
        )
        call = {"left": window * before, "right": window * after}
        sees = table(n, n, lambda p, j: -call["left"] <= j - p <= call["right"])
        if key_mask is not None:
            sees, call["key_mask"] = sees & key_mask[:, None, None, :], key_mask[:, None, :]
        cases[name] = qkv_case("local-attention", qkv, out, np_attention(*qkv, sees)[0], call)

    add_local("both_sides", 16, 4, 1, 1)
    add_local("two_to_one", 18, 3, 2, 1)
    add_local("causal", 16, 4, 1, 0, causal=True)
    add_local("ragged", 17, 4, 1, 1, key_mask=np.ones((2, 17), bool))

    def add_torch(name, n, m, left, right, dilation=1, key_mask=None):
        qkv = heads_qkv(generator("sliding_window/" + name), n, m)
        call = {"left": left, "right": right, "dilation": dilation}
        steps = np.broadcast_to(dilation, 2)
        distance = torch.arange(m) - (torch.arange(n)[:, None] + m - n)
        hops = torch.arange(-left, right + 1)
        mask = torch.stack([torch.isin(distance, hops * int(g)) for g in steps])
        sees = np.stack([
            table(n, m, lambda p, j, g=g: (j - p) % g == 0 and -left * g <= j - p <= right * g) for g in steps
        ])
        if key_mask is not None:
            mask, sees, call["key_mask"] = mask & tensor(key_mask), sees & key_mask, key_mask
        out, _ = torch_attention(*qkv, mask)
        cases[name] = qkv_case("torch", qkv, out, np_attention(*qkv, sees)[0], call)

    add_torch("dilated", 17, 17, 3, 2, dilation=2)
    add_torch("dilated_per_head", 17, 17, 2, 2, dilation=np.array([1, 3]))
    add_torch("more_keys", 10, 17, 4, 1)
    add_torch("more_keys_dilated_causal", 10, 17, 3, 0, dilation=np.array([2, 1]))
    add_torch("empty_rows", 14, 14, 2, 1, key_mask=np.arange(14) // 4 != 1)
    return cases


def np_longformer(q, k, v, globals_, global_qkv, side, *, dilation=(1, 1), causal=False, valid=None):
    """Row by row from the lists of keys: a local query sees its band and the global keys, each once."""
    batch, heads, n, _ = q.shape
    valid = np.ones((batch, n), bool) if valid is None else valid
    out = np.zeros((batch, heads, n, v.shape[-1]))
    for b, h, i in np.ndindex(batch, heads, n):
        every = set(range(n))
        chosen = {j for j in every if globals_[b, j]}
        band = {i + hop * dilation[h] for hop in range(-side, side + 1)} & every
        seen = every if i in chosen else band | chosen
        seen = sorted(j for j in seen if valid[b, j] and (j <= i or not causal))
        source = global_qkv if i in chosen else (q, k, v)
        if seen:
            row, keys, values = source[0][b, h, i], source[1][b, h, seen], source[2][b, h, seen]
            out[b, h, i] = np_attention(row[None], keys, values)[0][0]
    return out


def longformer(_):
    import torch
    from transformers import LongformerConfig
    from transformers.models.longformer.modeling_longformer import LongformerSelfAttention

    cases = {}

    def arguments(window, is_global, global_qkv, **call):
        call = {"window": window} | call
        if is_global.any():
            call["global_tokens"] = is_global[:, None, :]
            call |= {"global_" + c: x for c, x in zip("qkv", global_qkv, strict=True)}
        return call

    def softmax(x, dim, dtype):
        """The peer asks for float32 whatever it is given; kept in float64, its numbers are sharp."""
        return torch.softmax(x, dim)

    def add_hf(name, n, window, is_global, valid, *, released=False):
        rng = generator("longformer/" + name)
        config = LongformerConfig(
            hidden_size=8, num_attention_heads=2, attention_window=[window], attention_probs_dropout_prob=0.0
        )
        layer = randomise(LongformerSelfAttention(config, 0), rng)
        x = tensor(0.5 * rng.standard_normal((2, n, 8)))
        marks = tensor(np.where(valid, np.where(is_global, 1e4, 0.0), -1e4))
        sharp = mock.patch.object(torch.nn.functional, "softmax", softmax)
        with contextlib.nullcontext() if released else sharp:
            (out,) = layer(x, marks, marks < 0, marks > 0, bool(is_global.any()))
        per_head = lambda y: y.unflatten(-1, (2, 4)).transpose(1, 2).contiguous().numpy()
        qkv, global_qkv = (
            [per_head(getattr(layer, c + suffix)(x)) for c in ("query", "key", "value")]
            for suffix in ("", "_global")
        )
        restated = np_longformer(*qkv, is_global, global_qkv, window // 2, valid=valid)
        call = arguments(window, is_global, global_qkv)
        extra = {}
        if not valid.all():
            call["key_mask"] = valid[:, None, :]
            # The peer zeroes the rows of padded queries.
            extra["rows"] = np.repeat(valid[:, None, :], 2, axis=1)
        cases[name] = qkv_case(
            "transformers", qkv, per_head(out), restated, call,
            tolerance=SINGLE_SOFTMAX if released else DOUBLE, **extra,
        )

    def marked(n, *rows):
        is_global = np.zeros((2, n), bool)
        for b, row in enumerate(rows):
            is_global[b, list(row)] = True
        return is_global

    everything, padded = np.ones((2, 16), bool), np.arange(24) < np.array([[24], [19]])
    add_hf("hf_local", 16, 4, marked(16), everything)
    add_hf("hf_global", 16, 4, marked(16, (0, 7), (5,)), everything)
    add_hf("hf_padded", 24, 8, marked(24, (0,), (3, 11)), padded)
    add_hf("hf_released", 16, 8, marked(16, (2, 9), (0,)), everything, released=True)

    def add_torch(name, n, window, is_global, *, causal=False, dilation=1, key_mask=None):
        rng = generator("longformer/" + name)
        qkv, global_qkv = heads_qkv(rng, n, n), heads_qkv(rng, n, n)
        steps = np.broadcast_to(dilation, 2)
        distance = torch.arange(n) - torch.arange(n)[:, None]
        hops = torch.arange(window + 1) - window // 2
        band = torch.stack([torch.isin(distance, hops * int(g)) for g in steps])
        mark = tensor(is_global)
        allowed = torch.ones(n, n, dtype=torch.bool)
        if causal:
            allowed = allowed.tril()
        if key_mask is not None:
            allowed = allowed & tensor(key_mask)[:, None, None, :]
        local, _ = torch_attention(*qkv, (band | mark[:, None, None, :]) & allowed)
        wide, _ = torch_attention(*global_qkv, allowed.expand(2, 1, n, n))
        out = np.where(is_global[:, None, :, None], wide, local)
        restated = np_longformer(
            *qkv, is_global, global_qkv, window // 2, dilation=steps, causal=causal, valid=key_mask
        )
        call = arguments(window, is_global, global_qkv, causal=causal, dilation=dilation)
        if key_mask is not None:
            call["key_mask"] = key_mask[:, None, :]
        cases[name] = qkv_case("torch", qkv, out, restated, call)

    add_torch("causal", 15, 6, marked(15, (2, 9), (0,)), causal=True)
    add_torch("dilated", 15, 4, marked(15, (1,), (8, 14)), dilation=2)
    add_torch("dilated_per_head_causal", 15, 4, marked(15, (4,), (4, 5)), causal=True,
              dilation=np.array([3, 1]))
    # Masked queries keep their rows here. Where the whole band is masked, the first sequence still sees its
    # global key 0 (key 7 is global but masked); the second has none, and gives zeros.
    gap = (np.arange(15) < 5) | (np.arange(15) > 11)
    add_torch("key_mask", 15, 4, marked(15, (0, 7), ()), key_mask=np.stack([gap, gap]))
    return cases


def linformer(_):
    from linformer import LinformerSelfAttention

    cases = {}

    def add(name, n, m, longest, *, one_kv_head=False, share_kv=False, padded=0):
        rng = generator("linformer/" + name)
        module = LinformerSelfAttention(
            8, longest, k=6, heads=2, one_kv_head=one_kv_head, share_kv=share_kv
        )
        module = randomise(module, rng)
        module.to_out.weight.copy_(tensor(np.eye(8)))  # so that the output is the concatenated heads
        module.to_out.bias.zero_()
        x, context = tensor(rng.standard_normal((2, n, 8))), tensor(rng.standard_normal((2, m, 8)))
        per_head = lambda y: y.unflatten(-1, (-1, 4)).transpose(1, 2).contiguous().numpy()
        out = per_head(module(x, context))
        q, k = per_head(module.to_q(x)), per_head(module.to_k(context))
        # share_kv shares the projected keys with the values, not only the projection along the sequence
        v = k if share_kv else per_head(module.to_v(context))
        key_projection = module.proj_k.numpy().T
        value_projection = key_projection if share_kv else module.proj_v.numpy().T
        short_k, short_v = (p[:, :m] @ x for p, x in ((key_projection, k), (value_projection, v)))
        restated, _ = np_attention(q, short_k, short_v)
        call = {"key_projection": key_projection, "value_projection": value_projection}
        if padded:  # a masked suffix must equal the shorter sequence that the peer was given
            k, v = (np.concatenate([y, rng.standard_normal((2, 2, padded, 4))], axis=-2) for y in (k, v))
            call["key_mask"] = np.arange(m + padded) < m
        cases[name] = qkv_case("linformer", (q, k, v), out, restated, call)

    add("full_length", 16, 16, 16)
    add("shorter", 13, 13, 20)
    add("more_keys", 9, 17, 17)
    add("one_kv_head", 14, 14, 14, one_kv_head=True)
    add("shared", 14, 14, 16, share_kv=True)
    add("masked_suffix", 12, 12, 18, padded=5)
    return cases


def np_kernel_attention(features_q, features_k, v, visible=True, *, floor=0.0):
    """Kernel attention from its full matrix of weights; `floor` is added to every denominator."""
    weights = np.where(visible, features_q @ features_k.swapaxes(-1, -2), 0.0)
    return weights @ v / (weights.sum(-1, keepdims=True) + floor)


def np_positive(x, projection, *, epsilon=0.0, axes=None):
    """Positive features; `axes`: those of the maximum that the peers subtract, felt only with an epsilon."""
    x = x * x.shape[-1] ** -0.25
    exponent = x @ projection.T
    top = 0.0 if axes is None else exponent.max(axes, keepdims=True)
    return np.exp(exponent - (x**2).sum(-1, keepdims=True) / 2 - top) + epsilon


def np_trigonometric(x, projection):
    x = x * x.shape[-1] ** -0.25
    angle = x @ projection.T
    return np.exp((x**2).sum(-1, keepdims=True) / 2) * np.concatenate([np.cos(angle), np.sin(angle)], -1)


def np_relu(x, projection, *, epsilon=0.0):
    return np.maximum(x * x.shape[-1] ** -0.25 @ projection.T, 0) + epsilon


def lra_module(peer_dir, path):
    """Run one file of the Long Range Arena without its flax, gin and absl, which take no part in the sums."""
    import jax

    jax.config.update("jax_enable_x64", True)
    source = (peer_dir / "lra_benchmarks" / "models" / path).read_bytes()
    if hashlib.sha256(source).hexdigest() != LRA_FILES[path]:
        raise SystemExit(f"{path} is not the version that this script was written against")
    gin, absl = types.ModuleType("gin"), types.ModuleType("absl")
    gin.external_configurable = lambda function, name: function
    gin.configurable = lambda function: function
    absl.logging = types.SimpleNamespace(info=lambda *_: None)
    tree = ast.parse(source)
    tree.body = [node for node in tree.body if not names_flax(node)]
    module = types.ModuleType(Path(path).stem)
    module.nn = types.SimpleNamespace(elu=jax.nn.elu)
    with mock.patch.dict(sys.modules, {"gin": gin, "absl": absl}):
        exec(compile(tree, path, "exec"), module.__dict__)
    return module


def names_flax(node):
    """The import of flax and the layers built on it."""
    text = ast.unparse(node)
    return "flax" in text or "nn.Module" in text or ".partial(inputs_kv=None)" in text


def swap_heads(x):
    """(B, H, n, d) <-> (B, n, H, d): the Long Range Arena and fast-transformers put the length first."""
    return np.asarray(x).swapaxes(1, 2)


def performer(peer_dir):
    from performer_pytorch import performer_pytorch as peer

    cases = {}
    past = table(14, 14, lambda p, j: j <= p)
    count = 16

    def inputs(name, n, m, batch=2):
        rng = generator("performer/" + name)
        # Small inputs: the variance of the features grows with the exponential of the squared norms.
        return heads_qkv(rng, n, m, lead=(batch, 2), size=0.3), rng.standard_normal((count, 4)), rng

    def add(name, features, n=14, m=14, *, causal=False, masked=False):
        """The peer's own pieces, called with every epsilon set to zero."""
        (q, k, v), w, rng = inputs(name, n, m)
        call = {"projection": w, "causal": causal, "features": features}
        options = {"projection_matrix": tensor(w)}
        if features == "positive":
            restate = np_positive
            map_q = peer.softmax_kernel(tensor(q), is_query=True, eps=0.0, **options)
            map_k = peer.softmax_kernel(tensor(k), is_query=False, eps=0.0, **options)
        else:
            restate = np_relu
            if causal:  # else the first query may share no active feature with its only key: 0/0
                k[..., 0, :] = q[..., 0, :]
            map_q, map_k = (peer.generalized_kernel(tensor(x), kernel_epsilon=0.0, **options) for x in (q, k))
        visible = past if causal else True
        if masked:
            visible = call["key_mask"] = rng.random(m) < 0.6
            map_k = map_k * tensor(visible)[:, None]
        if causal:
            out = peer.causal_linear_attention_noncuda(map_q, map_k, tensor(v), chunk_size=5, eps=0.0)
        else:
            out = peer.linear_attention(map_q, map_k, tensor(v))
        restated = np_kernel_attention(restate(q, w), restate(k, w), v, visible)
        cases[name] = qkv_case("performer-pytorch", (q, k, v), out, restated, call)

    add("positive", "positive", n=11, m=15)
    add("positive_causal", "positive", causal=True)
    add("positive_key_mask", "positive", n=11, m=15, masked=True)
    add("relu", "relu", n=11, m=15)
    add("relu_causal", "relu", causal=True)

    def add_released(name, causal, generalised):
        (q, k, v), w, _ = inputs(name, 14, 14)
        with contextlib.redirect_stdout(io.StringIO()):  # it reports that its CUDA kernel is absent
            module = peer.FastAttention(4, count, causal=causal, generalized_attention=generalised).double()
        module.projection_matrix.copy_(tensor(w))
        out = module(*map(tensor, (q, k, v)))
        if generalised:
            map_q, map_k = (np_relu(x, w, epsilon=1e-3) for x in (q, k))
            plain = [np_relu(x, w) for x in (q, k)]
        else:
            map_q = np_positive(q, w, epsilon=1e-4, axes=-1)
            map_k = np_positive(k, w, epsilon=1e-4, axes=(-1, -2))
            plain = [np_positive(x, w) for x in (q, k)]
            map_q, map_k = (x * count**-0.5 for x in (map_q, map_k))  # felt by the causal form's floor
        visible, floor = (past, 1e-6 * map_q.sum(-1, keepdims=True)) if causal else (True, 0.0)
        restated = np_kernel_attention(map_q, map_k, v, visible, floor=floor)
        paper = np_kernel_attention(*plain, v, visible)
        call = {"projection": w, "causal": causal, "features": "relu" if generalised else "positive"}
        cases[name] = qkv_case("performer-pytorch", (q, k, v), out, restated, call, paper=paper)

    add_released("released_positive", causal=False, generalised=False)
    add_released("released_positive_causal", causal=True, generalised=False)
    add_released("released_relu", causal=False, generalised=True)

    lra = lra_module(peer_dir, "performer/performer_attention.py")
    maps = {
        "positive": (np_positive, lambda x, w, dims, batch, precision, is_query: (
            lra.nonnegative_softmax_kernel_feature_creator(x, w, dims, batch, precision, is_query, eps=0.0))),
        "trigonometric": (np_trigonometric, lambda x, w, dims, batch, precision, is_query: (
            lra.sincos_softmax_kernel_feature_creator(x, w, dims, batch, precision))),
        "relu": (np_relu, lambda x, w, dims, batch, precision, is_query: (
            lra.generalized_kernel_feature_creator(x, w, batch, precision, lra.jax.nn.relu, 0.0, False))),
    }

    def add_lra(name, features, causal):
        (q, k, v), w, _ = inputs(name, 14, 14, batch=1)
        restate, creator = maps[features]
        matrix = types.SimpleNamespace(get_2d_array=lambda: w)
        module = lra.FastAttentionviaLowRankDecomposition(
            lambda key: matrix, creator, renormalize_attention=True, numerical_stabilizer=0.0,
            redraw_features=False, unidirectional=causal,
        )
        out = swap_heads(module.dot_product_attention(*map(swap_heads, (q, k, v))))
        restated = np_kernel_attention(restate(q, w), restate(k, w), v, past if causal else True)
        call = {"projection": w, "causal": causal, "features": features}
        cases[name] = qkv_case("long-range-arena", (q, k, v), out, restated, call)

    add_lra("lra_positive", "positive", False)
    add_lra("lra_positive_causal", "positive", True)
    add_lra("lra_trigonometric", "trigonometric", False)
    add_lra("lra_trigonometric_causal", "trigonometric", True)
    add_lra("lra_relu", "relu", False)
    return cases


def np_elu_features(x):
    return np.where(x > 0, x + 1, np.exp(np.minimum(x, 0)))


def linear_transformer(peer_dir):
    import torch
    from fast_transformers.attention.causal_linear_attention import CausalLinearAttention
    from fast_transformers.attention.linear_attention import LinearAttention
    from fast_transformers.masking import FullMask, LengthMask, TriangularCausalMask
    from fast_transformers.recurrent.attention.self_attention.linear_attention import RecurrentLinearAttention

    cases = {}

    def restate(q, k, v, visible=True, floor=0.0):
        q, k, v = (x.astype(np.float64) for x in (q, k, v))
        return np_kernel_attention(np_elu_features(q), np_elu_features(k), v, visible, floor=floor)

    def add(name, n=14, m=14, *, causal=False, lengths=None, released=False):
        qkv = heads_qkv(generator("linear_transformer/" + name), n, m)
        if causal:
            qkv = tuple(x.astype(np.float32) for x in qkv)
        layer = (CausalLinearAttention if causal else LinearAttention)(4, eps=1e-6 if released else 0.0)
        mask = TriangularCausalMask(n) if causal else FullMask(n, m)
        valid = LengthMask(torch.tensor(lengths or (m, m)), max_len=m)
        inputs = [tensor(swap_heads(x)) for x in qkv]
        out = swap_heads(layer(*inputs, mask, LengthMask(torch.tensor((n, n))), valid))
        call = {"causal": causal}
        visible = table(n, m, lambda p, j: j <= p or not causal)
        if lengths:
            key_mask = np.arange(m) < np.array(lengths)[:, None]
            call["key_mask"], visible = key_mask[:, None, :], visible & key_mask[:, None, None, :]
        restated = restate(*qkv, visible, 1e-6 if released else 0.0)
        paper = restate(*qkv, visible) if released else None
        cases[name] = qkv_case(
            "pytorch-fast-transformers", qkv, out, restated, call, paper=paper,
            tolerance=SINGLE if causal else DOUBLE,
        )

    add("full", 11, 15)
    add("key_mask", 11, 15, lengths=(15, 9))
    add("causal", causal=True)
    add("causal_key_mask", causal=True, lengths=(14, 8))
    add("released", 11, 15, released=True)
    add("released_causal", causal=True, released=True)

    q, k, v = heads_qkv(generator("linear_transformer/steps"), 14, 14)
    layer, state, rows = RecurrentLinearAttention(4, eps=0.0), None, []
    for t in range(14):
        row, state = layer(*(tensor(x[..., t, :]) for x in (q, k, v)), state=state)
        rows.append(row.numpy())
    call = {"function": "linear_transformer_step"}
    restated = restate(q, k, v, table(14, 14, lambda p, j: j <= p))
    cases["steps"] = qkv_case("pytorch-fast-transformers", (q, k, v), np.stack(rows, -2), restated, call)

    lra = lra_module(peer_dir, "linear_transformer/linear_attention.py")
    qkv = heads_qkv(generator("linear_transformer/lra"), 11, 15)
    out = swap_heads(lra.linear_attention(*map(swap_heads, qkv), eps=0.0))
    cases["lra"] = qkv_case("long-range-arena", qkv, out, restate(*qkv))
    return cases


PAPERS = (
    attention, transformer, block_local, sliding_window, longformer, linformer, performer, linear_transformer
)


def write(name, cases, digest):
    arrays = {"digest": np.asarray(digest)}
    for label, (record, gap) in cases.items():
        arrays |= {f"{label}/{key}": value for key, value in record.items()}
        print(f"{name:18} {label:26} {gap:.1e}  {record['peer']}")
    path = HERE / f"{name}.npz"
    np.savez_compressed(path, **arrays)
    if path.stat().st_size > MAX_BYTES:
        raise SystemExit(f"{path.name} has {path.stat().st_size} bytes, more than {MAX_BYTES}")


def main():
    names = {paper.__name__: paper for paper in PAPERS}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("papers", nargs="*", help=f"what to write, default all of: {', '.join(names)}")
    parser.add_argument("--peer-dir", type=Path, help="a checkout of google-research/long-range-arena")
    options = parser.parse_args()
    wanted = options.papers or list(names)
    if unknown := set(wanted) - set(names):
        parser.error(f"no such paper: {', '.join(sorted(unknown))}")
    if options.peer_dir is None and {"performer", "linear_transformer"} & set(wanted):
        parser.error("performer and linear_transformer need --peer-dir")
    digest = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    for name in wanted:
        write(name, names[name](options.peer_dir), digest)


if __name__ == "__main__":
    main()
