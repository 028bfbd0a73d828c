"""performer-pytorch's kernels; long-range-arena's Performer."""

import contextlib
import io
import types

import numpy as np
from frame import (
    generator,
    heads_qkv,
    lra_module,
    np_kernel_attention,
    qkv_case,
    swap_heads,
    table,
    tensor,
)


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


def cases(peer_dir):
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
