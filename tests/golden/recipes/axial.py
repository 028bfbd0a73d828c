"""The authors' code (google-research/axial); axial-attention's AxialAttention; torch with explicit masks."""

import functools
import hashlib
import math
import os
import sys
import types
from unittest import mock

import numpy as np
from frame import (
    case,
    generator,
    heads_qkv,
    np_attention,
    qkv_case,
    randomise,
    table,
    tensor,
    torch_attention,
)
from recipes.transformer import np_multi_head, np_norm

FILES = {  # SHA-256 of the files read from google-research/axial in a checkout
    "nn.py": "cb36f400f6d43a755285197869edcdee14c821e0123fff5e5b88745de1ab2ddb",
    "transformers.py": "ac1dbfa8cfdbfb63462c739232b0fc8fbd5f10c786df374578ff5d3decc41c43",
}


def released(peer_dir):
    """The two modules, their variables in float64 where the default would be float32."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow.compat.v1 as tf

    folder = peer_dir / "google-research"
    for name, digest in FILES.items():
        if hashlib.sha256((folder / "axial" / name).read_bytes()).hexdigest() != digest:
            raise SystemExit(f"{name} is not the version that this script was written against")
    # its third module moves channels into rows, which takes no part here
    unused = {"axial.utils": types.ModuleType("axial.utils")}
    with mock.patch.object(sys, "path", [str(folder), *sys.path]), mock.patch.dict(sys.modules, unused):
        from axial import nn, transformers
    nn.Module._scope_name = "axial"  # TensorFlow 2 has no such attribute; it only gives variables their names
    variable = functools.partial(tf.get_variable, dtype=tf.float64)
    return nn, transformers, mock.patch.object(tf, "get_variable", variable)


def on_a_line(shape, axis, causal):
    stride = math.prod(shape[axis + 1:])
    coordinate = lambda p: p // stride % shape[axis]
    start = lambda p: p - stride * coordinate(p)
    n = math.prod(shape)
    return table(n, n, lambda p, j: start(p) == start(j) and (coordinate(j) <= coordinate(p) or not causal))


def np_block(x, weights, heads, axis, causal):
    across = (lambda y: y.swapaxes(1, 2)) if axis == 0 else (lambda y: y)
    n = x.shape[1 + axis]
    rows = across(np_norm(x, weights["g1"], weights["n1"]))
    x = x + across(np_multi_head(rows, rows, weights, heads, np.tri(n, dtype=bool) if causal else True))
    hidden = np_norm(x, weights["g2"], weights["n2"]) @ weights["w1"] + weights["b1"]
    return x + hidden / (1 + np.exp(-1.702 * hidden)) @ weights["w2"] + weights["b2"]


def np_model(x, weights, heads, outer, context):
    """u sees all rows up to its own, so it enters one row lower; the pixel itself enters one column later."""
    stacked = weights.keys() - {"rows", "columns", "gl", "nl", "wl", "bl"}
    layers = [{key: weights[key][number] for key in stacked} for number in range(len(weights["wq"]))]
    place = weights["rows"][:, None] + weights["columns"] + context
    u = x + place
    for number, layer in enumerate(layers[:outer]):
        u = np_block(u, layer, heads, (number + 1) % 2, number % 2 == 1)
    hidden = np.broadcast_to(place, x.shape).copy()
    hidden[:, 1:] += u[:, :-1]
    hidden[:, :, 1:] += x[:, :, :-1]
    for layer in layers[outer:]:
        hidden = np_block(hidden, layer, heads, 1, True)
    return np_norm(hidden, weights["gl"], weights["nl"]) @ weights["wl"] + weights["bl"]


def cases(peer_dir):
    from axial_attention import AxialAttention

    nn, transformers, in_double = released(peer_dir)
    cases = {}

    def add(name, peer, qkv, out, shape, axis, causal=False, key_mask=None):
        """`out` in the layout of the grid: (batch, *shape, heads, width)."""
        out = np.asarray(out).reshape(*qkv[0].shape[:1], -1, *qkv[2].shape[1::2]).swapaxes(1, 2)
        call, sees = {"shape": shape, "axis": axis, "causal": causal}, on_a_line(shape, axis, causal)
        if key_mask is not None:
            call["key_mask"], sees = key_mask[:, None, :], sees & key_mask[:, None, None, :]
        cases[name] = qkv_case(peer, qkv, out, np_attention(*qkv, sees)[0], call)

    def add_released(name, shape, axis, causal):
        n = math.prod(shape)
        qkv = heads_qkv(generator("axial/" + name), n, n, e=4, lead=(1, 2))
        grids = (nn.tf.constant(x.swapaxes(1, 2).reshape(1, *shape, 2, 4)) for x in qkv)
        out = nn.attn_nd(*grids, time_axis=1 + axis, feat_axis=-1, masked=causal)
        add(name, "google-research", qkv, out, shape, axis, causal)

    for causal, suffix in ((False, ""), (True, "_causal")):
        add_released("rows" + suffix, (3, 5), 1, causal)
        add_released("columns" + suffix, (3, 5), 0, causal)
        add_released("middle" + suffix, (2, 4, 3), 1, causal)

    def add_module(name, shape, axis):
        """One axis of the module alone: it sums or chains all of them, each with projections of its own."""
        rng = generator("axial/" + name)
        module = randomise(AxialAttention(dim=8, num_dimensions=len(shape), heads=2), rng)
        module = module.axial_attentions[axis]
        module.fn.to_out.weight.copy_(tensor(np.eye(8)))
        module.fn.to_out.bias.zero_()
        x = tensor(rng.standard_normal((1, *shape, 8)))
        projected = (module.fn.to_q(x), *module.fn.to_kv(x).chunk(2, dim=-1))
        qkv = [y.reshape(1, -1, 2, 4).transpose(1, 2).numpy() for y in projected]
        add(name, "axial-attention", qkv, module(x), shape, axis)

    add_module("module_rows", (3, 4), 1)
    add_module("module_columns", (3, 4), 0)
    add_module("module_depth", (2, 3, 3), 0)

    def add_torch(name, shape, axis, causal, key_mask):
        qkv = heads_qkv(generator("axial/" + name), math.prod(shape), math.prod(shape))
        lines = [np.moveaxis(x.reshape(2, 2, *shape, -1), 2 + axis, -2) for x in qkv]
        seen = np.moveaxis(key_mask.reshape(2, 1, *shape), 2 + axis, -1)[..., None, :]
        seen = seen & np.tri(shape[axis], dtype=bool) if causal else seen
        out = np.moveaxis(torch_attention(*lines, seen)[0], -2, 2 + axis)
        add(name, "torch", qkv, np.moveaxis(out, 1, -2), shape, axis, causal, key_mask)

    some = generator("axial/mask").random((2, 12)) < 0.6
    add_torch("masked_columns", (4, 3), 0, False, some)
    add_torch("masked_causal", (2, 3, 2), 1, True, some)

    def add_model(name, outer, inner, context):
        rng, width = generator("axial/" + name), 6
        with in_double:
            model = transformers.Transformer2d(
                img_height=3, img_width=4, num_embs=5, emb_dim=width, emb_init_scale=1.0, num_heads=2,
                hdim_factor=2, res_init_scale=1.0, num_outer_layers=outer, num_inner_layers=inner)
        for variable in model.variables:
            values = rng.standard_normal(variable.shape)
            variable.assign(values / np.sqrt(values.shape[0]) if values.ndim > 1 else values)
        layers = []
        for layer in [*model.outer_layers, *model.inner_layers]:
            attn, mlp = layer.attn, layer.mlp
            dense = {"q": attn.q, "k": attn.k, "v": attn.v, "o": attn.proj_out}
            dense |= {"1": mlp.proj_in, "2": mlp.proj_out}
            norms = {"1": layer.layernorm_attn, "2": layer.layernorm_mlp}
            layers.append({"w" + key: part.w for key, part in dense.items()}
                          | {"b" + key: part.b for key, part in dense.items()}
                          | {"g" + key: part.g for key, part in norms.items()}
                          | {"n" + key: part.b for key, part in norms.items()})
        weights = {key: np.stack([layer[key].numpy() for layer in layers]) for key in layers[0]}
        weights |= {"rows": model.pos_embs_h.numpy(), "columns": model.pos_embs_w.numpy(),
                    "gl": model.final_ln.g.numpy(), "nl": model.final_ln.b.numpy(),
                    "wl": model.final_dense.w.numpy(), "bl": model.final_dense.b.numpy()}
        pixels = rng.integers(0, 5, (2, 3, 4)).astype(np.int32)
        cond = rng.standard_normal((2, 3, 4, width)) if context else None
        out = model.compute_logits(nn.tf.constant(pixels), cond=cond, dropout=0.0).numpy()
        arrays = {"x": model.embs.numpy()[pixels]}
        call = {"function": "axial_transformer", "inputs": ["x"], "weights": sorted(weights), "heads": 2,
                "outer": outer}
        if context:
            arrays["context"], call["arrays"] = cond, ["context"]
        restated = np_model(arrays["x"], weights, 2, outer, cond if context else 0.0)
        stored = {f"weights/{key}": y for key, y in weights.items()}
        cases[name] = case("google-research", arrays | stored, out, restated, call)

    add_model("model", 4, 1, False)
    add_model("model_with_context", 2, 2, True)
    add_model("model_inner_alone", 0, 1, False)
    return cases
