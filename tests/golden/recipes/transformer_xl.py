"""transformer-xl's attention and the mask of its TensorFlow code; transformers' XLNetRelativeAttention."""

import ast
import contextlib
import hashlib
import sys
import types
from unittest import mock

import numpy as np
from frame import DOUBLE, generator, heads_qkv, np_attention, qkv_case, randomise, table, tensor

FILES = {  # SHA-256 of the files read from a checkout
    "pytorch/mem_transformer.py":
        "38cbc93a8f7b06b85976e88e161349b34f2ac226b8a7796bd6d82c30dc592827",
    "tf/model.py":
        "0dbd44a6c1fd204cc9d3b921663de52278baebcc7f2fc815a3bef84263bcfc65",
}
SINGLE_SCORES = (5e-7, "float64, but the peer rounds the scores to float32 where it masks them")


def source(peer_dir, path):
    text = (peer_dir / "transformer-xl" / path).read_bytes()
    if hashlib.sha256(text).hexdigest() != FILES[path]:
        raise SystemExit(f"{path} is not the version that this script was written against")
    return text


def official_module(peer_dir):
    """The file without its softmax over words, whose import looks for CUDA."""
    module = types.ModuleType("mem_transformer")
    words, sampler = types.ModuleType("proj_adaptive_softmax"), types.ModuleType("log_uniform_sampler")
    words.ProjectedAdaptiveLogSoftmax = sampler.LogUniformSampler = sampler.sample_logits = None
    absent = {x.__name__: x for x in (words, sampler)}
    with mock.patch.dict(sys.modules, absent), mock.patch.object(sys, "path", list(sys.path)):
        exec(source(peer_dir, "pytorch/mem_transformer.py"), module.__dict__)
    return module


def same_length_mask(peer_dir, n, m):
    """What `_create_mask` of the TensorFlow code hides, its few operations done by NumPy."""
    def matrix_band_part(x, lower, upper):
        return np.triu(x, -lower if lower >= 0 else -len(x)) * np.tril(x, upper if upper >= 0 else len(x))

    tf = types.SimpleNamespace(ones=np.ones, zeros=np.zeros, concat=np.concatenate,
                               matrix_band_part=matrix_band_part)
    tree = ast.parse(source(peer_dir, "tf/model.py"))
    tree.body = [node for node in tree.body if getattr(node, "name", None) == "_create_mask"]
    scope = {"tf": tf}
    exec(compile(tree, "tf/model.py", "exec"), scope)
    return scope["_create_mask"](n, m - n, same_length=True).astype(bool)


def np_transformer_xl(q, k, v, relative_keys, content_bias, position_bias, visible):
    """Scores pair by pair: the distance is looked up, nothing is shifted."""
    n, m = q.shape[-2], k.shape[-2]
    position = np.zeros((*q.shape[:-1], m))
    for i, j in np.ndindex(n, m):
        if i + m - n >= j:
            row = q[..., i, :] + position_bias
            position[..., i, j] = (row * relative_keys[..., i + m - n - j, :]).sum(-1)
    scale = q.shape[-1] ** -0.5
    return np_attention(q + content_bias[:, None], k, v, visible, bias=scale * position)[0]


def cases(peer_dir):
    import torch
    from transformers import XLNetConfig
    from transformers.models.xlnet.modeling_xlnet import XLNetRelativeAttention

    cases = {}
    peer = official_module(peer_dir)
    length_first = lambda x: tensor(np.moveaxis(x, -2, 0))  # (B,H,n,d) -> (n,B,H,d)
    heads_first = lambda x: np.moveaxis(x.numpy(), 0, -2)

    def add_official(name, n, m, hidden, *, released=False, **call):
        """`hidden` (n, m) is True where a query does not see a key."""
        rng = generator("transformer_xl/" + name)
        layer = randomise(peer.RelPartialLearnableMultiHeadAttn(2, 8, 4, 0.0), rng)
        x = tensor(rng.standard_normal((m, 2, 8)))
        content_bias, position_bias = rng.standard_normal((2, 2, 4))
        encodings = peer.PositionalEmbedding(8).double()(torch.arange(m - 1, -1, -1.0, dtype=torch.float64))
        seen = []
        layer.o_net.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        exact = mock.patch.object(torch.Tensor, "float", lambda x: x)
        with contextlib.nullcontext() if released else exact:
            layer(x[m - n:], encodings, tensor(content_bias), tensor(position_bias),
                  attn_mask=tensor(hidden)[:, :, None], mems=x[:m - n] if m > n else None)
        q, k, v = (heads_first(y.unflatten(-1, (2, 4))) for y in layer.qkv_net(x).chunk(3, -1))
        q = q[..., m - n:, :]
        relative_keys = heads_first(layer.r_net(encodings[:, 0]).unflatten(-1, (2, 4)))[..., ::-1, :].copy()
        own = {"relative_keys": relative_keys, "content_bias": content_bias, "position_bias": position_bias}
        restated = np_transformer_xl(q, k, v, **own, visible=~hidden)
        out = heads_first(seen[0].unflatten(-1, (2, 4)))
        cases[name] = qkv_case("transformer-xl", (q, k, v), out, restated, own | call,
                               tolerance=SINGLE_SCORES if released else DOUBLE)

    future = lambda n, m: table(n, m, lambda p, j: j > p)
    add_official("no_memory", 12, 12, future(12, 12))
    add_official("memory", 7, 15, future(7, 15))
    add_official("one_query", 1, 9, future(1, 9))
    add_official("released", 7, 15, future(7, 15), released=True)
    hidden = same_length_mask(peer_dir, 7, 12)
    assert (~hidden == table(7, 12, lambda p, j: 0 <= p - j <= 5)).all()
    add_official("same_length", 7, 12, hidden, same_length=True)
    add_official("same_length_no_memory", 6, 6, same_length_mask(peer_dir, 6, 6), same_length=True)
    # the same option of the PyTorch code, for a full memory of 5: the farthest of these keys is hidden too
    released = torch.ones(7, 12).triu(1 + 5) + torch.ones(7, 12).tril(0)
    assert (released.numpy() == 0).sum() == (~hidden).sum() - 7

    def add_xlnet(name, n, m, *, key_mask=None, biased=True):
        rng = generator("transformer_xl/" + name)
        config = XLNetConfig(d_model=8, n_head=2, d_head=4, dropout=0.0, n_layer=1, d_inner=8)
        layer = randomise(XLNetRelativeAttention(config), rng)
        qkv = heads_qkv(rng, n, m)
        relative_keys = rng.standard_normal((2, m, 4))
        own = {"relative_keys": relative_keys}
        biases = {"content_bias": layer.r_w_bias, "position_bias": layer.r_r_bias}
        for key, bias in biases.items():
            bias.copy_(tensor(rng.standard_normal((2, 4)) if biased else np.zeros((2, 4))))
            if biased:
                own[key] = bias.numpy().copy()
        # one distance more than there are pairs comes first, the farthest: the shift drops it
        far = np.concatenate([relative_keys, rng.standard_normal((2, 1, 4))], axis=-2)[:, ::-1]
        by_distance = length_first(np.broadcast_to(far, (2, 2, m + 1, 4)))
        visible = ~future(n, m) if key_mask is None else ~future(n, m) & key_mask[:, :, None, :]
        hidden = tensor(~np.broadcast_to(visible, (2, 2, n, m))).double().permute(2, 3, 0, 1)
        out = heads_first(layer.rel_attn_core(*map(length_first, qkv), by_distance, attn_mask=hidden))
        restated = np_transformer_xl(*qkv, relative_keys, *(x.numpy() for x in biases.values()), visible)
        call = own if key_mask is None else own | {"key_mask": key_mask}
        cases[name] = qkv_case("transformers", qkv, out, restated, call)

    add_xlnet("xlnet", 7, 12)
    add_xlnet("xlnet_no_biases", 7, 12, biased=False)
    key_mask = generator("transformer_xl/key_mask").random((2, 1, 12)) < 0.6
    key_mask[..., 0] = True  # a query without any key gets their mean there
    add_xlnet("xlnet_key_mask", 7, 12, key_mask=key_mask)
    return cases
