"""sparse_attention's block layouts; DeepSpeed's FixedSparsityConfig; torch with explicit masks.

The first two are masks: torch's attention gives them values.
"""

import hashlib
import sys
import types
from unittest import mock

import numpy as np
from frame import generator, heads_qkv, np_attention, qkv_case, tensor, torch_attention

FILES = {  # SHA-256 of what is read from checkouts, and from an installed package
    "sparse_attention/attention.py": "eef8bb1fbdb33f8358078d1206e9201b7d4d5c2739526a818a32c7b74177eba9",
    "DeepSpeed/deepspeed/ops/sparse_attention/sparsity_config.py":
        "794098c6de503c7597768b7e332bb6d3a1fd639595f07aeac6f3bb2cf2871ca8",
    "NeuralNLP-NeuralClassifier/model/attention.py":
        "22fa45f7c8282a9aced67b2038553548e4392a2dd9618802dbda88f156aa9fe2",
    "NeuralNLP-NeuralClassifier/model/transformer_encoder.py":
        "9ca068224ab120689984d42ff2c342ff44a62e7341014a4c3a45b9a2f9bcfa53",
    "fastNLP/modules/torch/encoder/star_transformer.py":
        "df583519ac014dd169172992e0df03e84b035a12784821f8c63d4f12335206ed",
}


def file_module(folder, path, imports=None):
    """Run one file alone, with stand-ins for modules that it imports."""
    source = (folder / path).read_bytes()
    if hashlib.sha256(source).hexdigest() != FILES[path]:
        raise SystemExit(f"{path} is not the version that this script was written against")
    module = types.ModuleType(path.rpartition("/")[2].removesuffix(".py"))
    with mock.patch.dict(sys.modules, imports or {}):
        exec(compile(source, path, "exec"), module.__dict__)
    return module


def band_part(x, lower, upper):
    """What TensorFlow calls matrix_band_part: a negative limit keeps everything on that side."""
    distance = np.arange(x.shape[-1]) - np.arange(x.shape[-2])[:, None]
    return np.where((lower < 0 or distance >= -lower) & ((upper < 0) | (distance <= upper)), x, 0)


def softmax(scores):
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def openai(peer_dir):
    """attention.py with NumPy in the place of TensorFlow and of the kernels, which run no more.

    Its `BlocksparseTransformer` is replaced by the dense mask, one per head, of the layout it is given.
    """
    def dense(layout, block_size, mask_callback, heads):
        layout = np.broadcast_to(layout, (heads, *layout.shape[-2:]))
        mask = np.zeros((heads, *(block_size * np.array(layout.shape[-2:]))), bool)
        for head, row, column in np.argwhere(layout):
            inside = mask_callback((block_size, block_size), head, row, column, None)
            place = (slice(i * block_size, (i + 1) * block_size) for i in (row, column))
            mask[head, *place] = inside
        return mask

    tensorflow = types.SimpleNamespace(
        reshape=np.reshape, transpose=np.transpose, range=lambda n, dtype: np.arange(n), int32=np.int32,
        zeros=lambda shape, dtype: np.zeros(shape, int), ones=np.ones, equal=np.equal, floormod=np.mod,
        logical_and=np.logical_and, cast=lambda x, dtype: np.asarray(x, float), to_float=np.asarray,
        minimum=np.minimum, matrix_band_part=band_part, float16=np.float16, float32=np.float32,
        matmul=lambda a, b, transpose_b=False: a @ (b.swapaxes(-1, -2) if transpose_b else b),
        nn=types.SimpleNamespace(softmax=softmax))
    utils = types.SimpleNamespace(shape_list=lambda x: list(x.shape), recomputable=lambda name: lambda f: f)
    blocksparse = types.SimpleNamespace(BlocksparseTransformer=dense)
    return file_module(peer_dir, "sparse_attention/attention.py", {
        "tensorflow": tensorflow, "utils": utils, "blocksparse": blocksparse})


def deepspeed(peer_dir):
    return file_module(peer_dir, "DeepSpeed/deepspeed/ops/sparse_attention/sparsity_config.py")


def np_rows(q, k, v, keys, *, key_mask=None):
    """Row by row from lists of keys: keys(batch entry, head, position of the query)."""
    (*lead, n, _), m = q.shape, k.shape[-2]
    out = np.zeros((*lead, n, v.shape[-1]))
    for b, h, i in np.ndindex(*lead, n):
        seen = sorted(j for j in set(keys(b, h, i + m - n)) if 0 <= j < m)
        if key_mask is not None:
            seen = [j for j in seen if key_mask[b, j]]
        if seen:
            out[b, h, i] = np_attention(q[b, h, i][None], k[b, h, seen], v[b, h, seen])[0][0]
    return out


def fixed_keys(m, stride, summary, sub_block=0, part="merged", causal=True):
    """The lists of the fixed pattern: blocks and their summary cells are counted off, one after the other."""
    def keys(_, head, position):
        further = np.broadcast_to(sub_block, 2)[head]
        block = position // stride
        local = [block * stride + t for t in range(stride)]
        cells = [end - 1 - further * summary - t for end in range(stride, m + stride, stride)
                 for t in range(summary)]
        seen = {"local": local, "summary": cells, "merged": local + cells}[part]
        return [j for j in seen if j <= position or not causal]

    return keys


def cases(peer_dir):
    import torch

    cases = {}

    def add(peer, name, n, mask, **call):
        qkv = heads_qkv(generator("sparse_fixed/" + name), n, n)
        out, _ = torch_attention(*qkv, mask)
        cases[name] = qkv_case(peer, qkv, out, np_rows(*qkv, fixed_keys(n, **call)), call)

    released, config = openai(peer_dir), deepspeed(peer_dir).FixedSparsityConfig

    def layout(n, heads, **options):
        return released.get_blocksparse_obj(n, heads, "fixed", **options)

    # one summary for all heads; heads that take turns; blocks of two tokens
    add("sparse_attention", "released", 16,
        layout(16, 2, blocksize=1, local_attn_ctx=4, num_verts=1, vertsize=2), stride=4, summary=2)
    add("sparse_attention", "released_per_head", 18,
        layout(18, 2, blocksize=1, local_attn_ctx=6, num_verts=2, vertsize=2), stride=6, summary=2,
        sub_block=np.array([0, 1]))
    add("sparse_attention", "released_blocks", 24,
        layout(24, 2, blocksize=2, local_attn_ctx=8, num_verts=2, vertsize=1), stride=8, summary=2,
        sub_block=np.array([0, 1]))

    forward = config(2, block=1, num_local_blocks=4, attention="unidirectional")
    both = config(2, block=1, different_layout_per_head=True, num_local_blocks=6, num_global_blocks=2,
                  num_different_global_patterns=2)
    add("DeepSpeed", "unidirectional", 16, forward.make_layout(16).bool(), stride=4, summary=1)
    add("DeepSpeed", "bidirectional_per_head", 18, both.make_layout(18).bool(), stride=6, summary=2,
        sub_block=np.array([0, 1]), causal=False)

    def add_torch(name, n, m, key_mask=None, **call):
        """Masks from comparisons; the lists from counting."""
        qkv = heads_qkv(generator("sparse_fixed/" + name), n, m)
        position, key = torch.arange(n)[:, None] + m - n, torch.arange(m)
        options = {"sub_block": 0, "part": "merged", "causal": True} | call
        stride, summary = call["stride"], call["summary"]
        further = torch.as_tensor(options["sub_block"])[..., None, None]
        from_end = stride - 1 - key % stride - further * summary
        local = torch.div(position, stride, rounding_mode="floor") == key // stride
        cells = (from_end >= 0) & (from_end < summary) & torch.ones(n, 1, dtype=torch.bool)
        mask = {"local": local, "summary": cells, "merged": local | cells}[options["part"]]
        if options["causal"]:
            mask = mask & (key <= position)
        if key_mask is not None:
            mask = mask & tensor(key_mask)[:, None, None, :]
            call["key_mask"] = key_mask[:, None, :]
        restated = np_rows(*qkv, fixed_keys(m, **{x: call[x] for x in call if x != "key_mask"}),
                           key_mask=key_mask)
        cases[name] = qkv_case("torch", qkv, torch_attention(*qkv, mask)[0], restated, call)

    seen = generator("sparse_fixed/masks").random((2, 17)) < 0.6
    add_torch("ragged", 15, 15, stride=4, summary=1)
    add_torch("summary_empty_rows", 15, 15, stride=6, summary=2, part="summary")
    add_torch("local_key_mask", 12, 17, seen, stride=5, summary=1, part="local")
    add_torch("more_keys_key_mask", 12, 17, seen, stride=5, summary=2, sub_block=np.array([1, 0]))
    add_torch("more_queries", 17, 11, stride=4, summary=1, causal=False)
    return cases
