"""fastNLP's ring attention; NeuralNLP-NeuralClassifier's StarEncoderLayer; torch with explicit masks."""

import importlib.util
import types
from pathlib import Path
from unittest import mock

import numpy as np
from frame import case, generator, heads_qkv, np_attention, qkv_case, randomise, tensor, torch_attention
from recipes.sparse_fixed import file_module

FASTNLP = "fastNLP/modules/torch/encoder/star_transformer.py"
NEURAL = "NeuralNLP-NeuralClassifier/model/"


def fastnlp_star():
    """One file of the installed package, whose front door imports much more."""
    return file_module(Path(importlib.util.find_spec("fastNLP").origin).parents[1], FASTNLP)


def neural_star(peer_dir):
    util = types.SimpleNamespace(init_tensor=None)
    imports = {"model": types.ModuleType("model"), "model.model_util": util}
    attention = file_module(peer_dir, NEURAL + "attention.py", imports)
    return file_module(peer_dir, NEURAL + "transformer_encoder.py", imports | {"model.attention": attention})


def np_ring(q, k, v, own, key_mask=None):
    """Row by row over the list of contexts, each key once."""
    *lead, n, _ = q.shape
    out = np.zeros(v.shape)
    own = {name: np.broadcast_to(x, (*lead, *x.shape[-2:])) for name, x in own.items()}
    for b, h, i in np.ndindex(*lead, n):
        near = [j for j in sorted({(i - 1) % n, i, (i + 1) % n}) if key_mask is None or key_mask[b, j]]
        keys, values = ([x[b, h, near], own[f"{name}_embedded"][b, h, [i]], own[f"{name}_relay"][b, h]]
                        for name, x in (("key", k), ("value", v)))
        out[b, h, i] = np_attention(q[b, h, i][None], np.concatenate(keys), np.concatenate(values))[0][0]
    return out


def np_update(state, context, weights, role, heads):
    """LayerNorm(ReLU(MultiAtt)) of states (B,n,w), each with a context of its own (B,n,c,w)."""
    def split(x, name):
        x = x @ weights[f"{role}_w{name}"] + weights[f"{role}_b{name}"]
        return x.reshape(*x.shape[:-1], heads, -1).swapaxes(-2, -3)

    mixed, _ = np_attention(split(state[..., None, :], "q"), split(context, "k"), split(context, "v"))
    joined = mixed.swapaxes(-2, -3).reshape(state.shape)
    rows = np.maximum(joined @ weights[f"{role}_wo"] + weights[f"{role}_bo"], 0)
    rows = (rows - rows.mean(-1, keepdims=True)) / np.sqrt(rows.var(-1, keepdims=True) + 1e-5)
    return weights[f"{role}_g"] * rows + weights[f"{role}_n"]


def np_encoder(x, layers, heads):
    satellites, relay = x, x.mean(-2, keepdims=True)
    for weights in layers:
        context = [np.roll(satellites, 1, -2), satellites, np.roll(satellites, -1, -2), x, relay]
        context = np.stack([np.broadcast_to(part, x.shape) for part in context], -2)
        satellites = np_update(satellites, context, weights, "ring", heads)
        everyone = np.concatenate([relay, satellites], -2)[:, None]
        relay = np_update(relay, everyone, weights, "relay", heads)
    return np.concatenate([satellites, relay], -2)


def closed(x):
    """Length on axis 1, with the last token before the first and the first after the last."""
    import torch

    return torch.cat([x[:, -1:], x, x[:, :1]], 1)


def layer_weights(layer):
    weights = {}
    for role, part in (("ring", layer.slf_attn_satellite), ("relay", layer.slf_attn_relay)):
        for name, linear in (("q", part.w_qs), ("k", part.w_ks), ("v", part.w_vs), ("o", part.fc)):
            weights |= {f"{role}_w{name}": linear.weight.numpy().T, f"{role}_b{name}": linear.bias.numpy()}
        weights |= {f"{role}_g": part.layer_norm.weight.numpy(), f"{role}_n": part.layer_norm.bias.numpy()}
    return weights


def cases(peer_dir):
    import torch

    cases = {}

    def add_fastnlp(name, n, *, ring):
        """`_MSA1` takes (B,w,n,1): neighbours by unfolding, what else a token sees beside it in `ax`."""
        rng = generator("star_ring/" + name)
        layer = randomise(fastnlp_star()._MSA1(8, nhead=2, head_dim=4, dropout=0.0), rng)
        layer.WO.weight.copy_(torch.eye(8)[:, :, None, None])
        layer.WO.bias.zero_()
        x, e, s = (tensor(0.3 * rng.standard_normal((2, rows, 8))) for rows in (n, n, 1))
        ends = closed if ring else lambda x: x
        columns = lambda x: x.transpose(1, 2)[..., None]
        beside = torch.stack([ends(e), s.expand(2, len(ends(e)[0]), 8)], 1).permute(0, 3, 1, 2)
        heads = lambda y: y[..., 0].unflatten(1, (2, 4)).transpose(2, 3).contiguous().numpy()
        out = heads(layer(columns(ends(x)), ax=beside))
        out = out[:, :, 1:-1] if ring else out
        project = lambda convolution, rows: heads(convolution(columns(rows)))
        qkv = project(layer.WQ, x), project(layer.WK, x), project(layer.WV, x)
        own = {"key_embedded": project(layer.WK, e), "value_embedded": project(layer.WV, e),
               "key_relay": project(layer.WK, s), "value_relay": project(layer.WV, s)}
        # without the ends joined, the peer shows the first and the last token a vector of zeros
        inner = np.broadcast_to(np.arange(n) % (n - 1) > 0, (2, 2, n))
        cases[name] = qkv_case("fastNLP", qkv, out, np_ring(*qkv, own), own,
                               **({} if ring else {"rows": inner}))

    add_fastnlp("fastnlp", 12, ring=True)
    add_fastnlp("fastnlp_released", 12, ring=False)

    def add_torch(name, n, lead=(), key_mask=None):
        rng = generator("star_ring/" + name)
        qkv = heads_qkv(rng, n, n)
        own = {f"{side}_{place}": rng.standard_normal((*lead, rows, width)) for side, width in (
            ("key", 4), ("value", 5)) for place, rows in (("embedded", n), ("relay", 1))}
        keys, values = (torch.cat([tensor(np.broadcast_to(part, (2, 2, *part.shape[-2:]))) for part in (
            x, own[f"{side}_embedded"], own[f"{side}_relay"])], -2)
            for side, x in (("key", qkv[1]), ("value", qkv[2])))
        call, valid = dict(own), torch.ones(2, n, dtype=torch.bool)
        if key_mask is not None:
            call["key_mask"], valid = key_mask[:, None, :], tensor(key_mask)
        eye = torch.eye(n, dtype=torch.bool).expand(2, 1, n, n)
        near = (eye | eye.roll(1, -2) | eye.roll(-1, -2)) & valid[:, None, None, :]
        mask = torch.cat([near, eye, torch.ones(2, 1, n, 1, dtype=torch.bool)], -1)
        out, _ = torch_attention(qkv[0], keys.numpy(), values.numpy(), mask)
        cases[name] = qkv_case("torch", qkv, out, np_ring(*qkv, own, key_mask), call)

    seen = np.arange(9) < np.array([[9], [6]])
    add_torch("one", 1)
    add_torch("two", 2, (2, 2))
    add_torch("three", 3, (2,))
    add_torch("key_mask", 9, (2, 1), seen)

    def add_encoder(name, steps, *, shared=False):
        """The layer applied to the ring with its ends joined; its relay, to the ring alone."""
        rng = generator("star_ring/" + name)
        star = neural_star(peer_dir)
        layers = [randomise(star.StarEncoderLayer(8, 2, 4, 4), rng) for _ in range(1 if shared else steps)]
        layers *= steps if shared else 1
        x = tensor(rng.standard_normal((2, 9, 8)))
        satellites, relay = x, x.mean(1)
        for layer in layers:
            with mock.patch.object(torch, "float", torch.float64):  # the type of its border of zeros
                satellites, _ = layer(closed(satellites), closed(x), relay)
            satellites = satellites[:, 1:-1]
            row = relay[:, None]
            relay = layer.slf_attn_relay(row, *2 * [torch.cat([row, satellites], 1)])[0][:, 0]
        out = torch.cat([satellites, relay[:, None]], 1).numpy()
        own = [layer_weights(layer) for layer in layers]
        weights = own[0] if shared else {key: np.stack([part[key] for part in own]) for key in own[0]}
        call = {"function": "star_transformer", "inputs": ["x"], "weights": sorted(weights), "heads": 2,
                "steps": steps}
        stored = {f"weights/{key}": value for key, value in weights.items()}
        cases[name] = case("NeuralNLP-NeuralClassifier", {"x": x.numpy()} | stored, out,
                           np_encoder(x.numpy(), own, 2), call)

    add_encoder("encoder", 3)
    add_encoder("encoder_shared", 2, shared=True)
    return cases
