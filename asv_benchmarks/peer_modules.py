"""The torch packages of single papers, each behind one function: arrays and options in, contenders out.

Attention is compared with attention. A module's projections are replaced by modules that hand out what would
have been projected (`given`), its output layer by the identity, choices that are arguments in this project
(buckets, clusters, random blocks, sorting matrices) by the same choices made before: none of that is timed.
Layouts are prepared outside too. What a peer does beside the attention is said where it does it. All are in
evaluation mode, without gradients.

An import that fails makes its peer a missing one (`peer_variants`).
"""

import contextlib
import importlib.util
import io
import itertools
import sys
import types
from functools import partial
from unittest import mock

import contest
import numpy as np
from contest import OPTIONS, Array, Contender, versioned
from torch_forms import tensors, torch


def given(*outputs, copied: bool = False):
    """A module that hands these out in turn, whatever it is called with; `copied` if its caller writes."""
    turns, module = itertools.cycle(outputs), torch.nn.Module()
    module.forward = lambda *_, **__: next(turns).clone() if copied else next(turns)
    return module


def rows(x: Array):
    """(heads, n, w) -> tensor (1, n, heads * w), heads side by side as modules have them."""
    return torch.from_numpy(np.ascontiguousarray(x.swapaxes(0, 1)).reshape(1, x.shape[1], -1))


def split(out, heads: int) -> Array:
    """(1, n, heads * w) -> (heads, n, w)"""
    return out[0].unflatten(-1, (heads, -1)).transpose(0, 1).numpy()


def projecting(module, **parts):
    """The module with `parts` in place of its layers of these names."""
    for name, part in parts.items():
        setattr(module, name, part)
    return module.eval()


def local_attention(q: Array, k: Array, v: Array, *, window: int, after: int = 1, causal: bool = False,
                    exact: bool = False) -> list[Contender]:
    """Windows that see one before and `after` behind; `exact`: the same number of keys for each query."""
    from local_attention import LocalAttention

    module = LocalAttention(window, causal=causal, look_backward=1, look_forward=after,
                            exact_windowsize=exact, use_rotary_pos_emb=False)
    batch = [x[None] for x in tensors(q, k, v)]
    return [Contender(versioned("local-attention"), lambda: module(*batch), lambda out: out[0].numpy())]


def fastnlp_ring(q: Array, k: Array, v: Array, *, key_embedded: Array, value_embedded: Array,
                 key_relay: Array, value_relay: Array) -> list[Contender]:
    """The ring is closed by a copy of each end beyond the other, as this peer's own ring is open."""
    folder = importlib.util.find_spec("fastNLP")
    if folder is None:
        raise ImportError("No module named 'fastNLP'", name="fastNLP")
    # one file of the package, whose front door imports much more
    path = folder.submodule_search_locations[0] + "/modules/torch/encoder/star_transformer.py"
    spec = importlib.util.spec_from_file_location("star_transformer", path)
    star = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(star)

    heads, n, width = q.shape
    closed = lambda x: torch.cat([x[:, -1:], x, x[:, :1]], 1)
    columns = lambda x: closed(rows(x)).transpose(1, 2)[..., None].contiguous()  # (1, w, n + 2, 1)
    beside = lambda own, relay: torch.stack(
        [closed(rows(own)), rows(relay).expand(1, n + 2, -1)], 1).permute(0, 3, 1, 2).contiguous()
    layer = projecting(
        star._MSA1(heads * width, heads, width, dropout=0.0), WQ=given(columns(q)),
        WK=given(columns(k), beside(key_embedded, key_relay)),
        WV=given(columns(v), beside(value_embedded, value_relay)), WO=torch.nn.Identity())
    x, ax = torch.empty(1, 1, n + 2, 1), torch.empty(1, 1, 2, n + 2)
    return [Contender(versioned("fastNLP"), lambda: layer(x, ax),
                      lambda out: split(out[..., 1:-1, 0].transpose(1, 2), heads))]


def hf_longformer(q: Array, k: Array, v: Array, *, window: int, global_tokens: list[int]) -> list[Contender]:
    from transformers import LongformerConfig
    from transformers.models.longformer.modeling_longformer import LongformerSelfAttention

    heads, n, width = q.shape
    config = LongformerConfig(hidden_size=heads * width, num_attention_heads=heads, attention_window=[window])
    length_first = [rows(x).transpose(0, 1) for x in (q, k, v)]
    # queries are scaled in place, so they are handed out as copies
    layer = projecting(
        LongformerSelfAttention(config, 0), query=given(length_first[0], copied=True),
        key=given(length_first[1]), value=given(length_first[2]), key_global=given(length_first[1]),
        value_global=given(length_first[2]), query_global=given(length_first[0][global_tokens], copied=True))
    x, marks = torch.empty(1, n, heads * width), torch.zeros(1, n)
    marks[:, global_tokens] = 1e4
    return [Contender(versioned("transformers"), lambda: layer(x, marks, marks < 0, marks > 0, True)[0],
                      partial(split, heads=heads))]


def hf_bigbird(q: Array, k: Array, v: Array, *, block: int, random_blocks: Array) -> list[Contender]:
    """It also builds the n x n weights, a good part of its time, and returns them."""
    from transformers import BigBirdConfig, BigBirdModel
    from transformers.models.big_bird.modeling_big_bird import BigBirdBlockSparseAttention

    heads, n, width = q.shape
    count = random_blocks.shape[-1]
    config = BigBirdConfig(hidden_size=heads * width, num_attention_heads=heads, block_size=block,
                           num_random_blocks=count)
    layer = BigBirdBlockSparseAttention(config).eval()
    blocked, band, seen, keys = BigBirdModel.create_masks_for_block_sparse_attn(torch.ones(1, n), block)
    chosen = random_blocks[0, 1:-1]  # its tables lack the unused rows
    # one of the two draws, by the length; drawing is not what is compared
    layer._bigbird_block_rand_mask = lambda *_, **__: chosen
    layer._bigbird_block_rand_mask_with_head = lambda **_: [chosen] * heads
    call = partial(layer.bigbird_block_sparse_attention, *(x[None] for x in tensors(q, k, v)), band, seen,
                   keys, blocked, blocked, heads, count, width, block, block, 1, n, n, seed=None,
                   plan_from_length=None, plan_num_rand_blocks=None)
    return [Contender(versioned("transformers"), call, lambda out: out[0][0].transpose(0, 1).numpy())]


def axial_attention(q: Array, k: Array, v: Array, *, shape: tuple[int, int], axis: int) -> list[Contender]:
    """The attention within lines; the copies that bring columns into lines and back are left out."""
    from axial_attention.axial_attention import SelfAttention

    heads, _, width = q.shape
    grid = [x.reshape(heads, *shape, width) for x in (q, k, v)]
    lines = lambda x: np.ascontiguousarray(np.moveaxis(np.moveaxis(x, 1 + axis, 2), 0, 2)).reshape(
        shape[1 - axis], shape[axis], -1)  # (lines, along one, heads * width)
    q, k, v = tensors(*map(lines, grid))
    layer = projecting(SelfAttention(heads * width, heads), to_q=given(q), to_kv=given(torch.cat([k, v], -1)),
                       to_out=torch.nn.Identity())

    def heads_first(out):
        out = np.moveaxis(out.numpy().reshape(*out.shape[:2], heads, width), 2, 0)
        return np.moveaxis(out, 2, 1 + axis).reshape(heads, -1, width)
    return [Contender(versioned("axial-attention"), lambda: layer(q), heads_first)]


def adaptive_span(q: Array, k: Array, v: Array, *, span: Array, ramp: int,
                  position_keys: Array) -> list[Contender]:
    """The authors' layer: a block of queries behind a cache as long as the longest span."""
    if OPTIONS.peer_dir is None:
        raise ImportError("--peer-dir is not given", name="adaptive-span")
    folder = str(OPTIONS.peer_dir / "adaptive-span")
    # layers of other kinds, which its file imports beside this one
    others = {"persistent_memory": ["PersistentMemory"],
              "adaptive_io": ["build_adaptive_io", "compute_dummy_loss"]}
    others = {name: types.SimpleNamespace(**dict.fromkeys(parts)) for name, parts in others.items()}
    with mock.patch.object(sys, "path", [folder, *sys.path]), mock.patch.dict(sys.modules, others):
        models = importlib.import_module("models")

    heads, _, width = q.shape
    longest = len(position_keys) - 1
    layer = models.SeqAttention(
        hidden_size=width, nb_heads=heads, attn_span=longest, dropout=0.0,
        pers_mem_params=dict(pers_mem_size=0), adapt_span_params=dict(
            adapt_span_enabled=True, adapt_span_loss=0.0, adapt_span_ramp=ramp, adapt_span_init=0.0,
            adapt_span_cache=False)).eval()
    # its distances begin at 0, its spans are shares of the longest, its columns run from the oldest key
    layer.adaptive_span._mask.current_val.copy_(torch.from_numpy((span - 1) / longest)[..., None])
    columns = torch.from_numpy(np.ascontiguousarray(position_keys[:0:-1].T))[None]
    batch = tensors(q, k, v)
    return [Contender("adaptive-span, git", lambda: layer(*batch, columns), lambda out: out.numpy())]


def conformer(q: Array, k: Array, v: Array, *, key_table: Array) -> list[Contender]:
    """Its table is looked up for all pairs at each call: n x n x d numbers."""
    from conformer.conformer import Attention

    heads, n, width = q.shape
    q, k, v = map(rows, (q, k, v))
    layer = projecting(Attention(heads * width, heads, width, max_pos_emb=len(key_table) // 2), to_q=given(q),
                       to_kv=given(torch.cat([k, v], -1)), to_out=torch.nn.Identity())
    # it counts i - j: the rows of its table are in the opposite order
    layer.rel_pos_emb.weight.copy_(torch.from_numpy(key_table[::-1].copy()))
    return [Contender(versioned("conformer"), lambda: layer(q), partial(split, heads=heads))]


def numbered(buckets: Array):
    """Buckets (heads, rounds, n) with numbers of their own in each round, as (heads, rounds * n)."""
    rounds = buckets.shape[1]
    return torch.from_numpy(buckets + (buckets.max() + 1) * np.arange(rounds)[:, None]).flatten(1)


def reformer_pytorch(qk: Array, v: Array, *, buckets: Array, chunk: int) -> list[Contender]:
    """As it is by default, and with what makes a key that several rounds find count once, as in the paper."""
    from reformer_pytorch import LSHAttention

    qk, v, chosen = *tensors(qk, v), numbered(buckets)
    found = []
    for default, note in ((True, "repeated keys counted"), (False, "each key once")):
        layer = LSHAttention(bucket_size=chunk, n_hashes=buckets.shape[1],
                             allow_duplicate_attention=default).eval()
        layer.hash_vectors = lambda *_, **__: chosen
        found.append(Contender(f"{versioned('reformer-pytorch')}, {note}", partial(layer, qk, v),
                               lambda out: out[0].numpy()))
    return found


def hf_reformer(qk: Array, v: Array, *, buckets: Array, chunk: int, scale: float) -> list[Contender]:
    from transformers import ReformerConfig
    from transformers.models.reformer.modeling_reformer import LSHSelfAttention

    heads, n, width = qk.shape
    config = ReformerConfig(
        hidden_size=heads * width, num_attention_heads=heads, attention_head_size=width, is_decoder=False,
        num_hashes=buckets.shape[1], num_buckets=int(buckets.max()) + 1, lsh_attn_chunk_length=chunk,
        lsh_num_chunks_before=1, lsh_num_chunks_after=0)
    layer = projecting(LSHSelfAttention(config), query_key=given(rows(qk)), value=given(rows(v)))
    x, chosen = torch.empty(1, n, heads * width), numbered(buckets)[None]
    return [Contender(versioned("transformers"), lambda: layer(x, buckets=chosen).hidden_states,
                      partial(split, heads=heads))]


def routing_transformer(q: Array, k: Array, v: Array, *, query_clusters: Array,
                        key_clusters: Array) -> list[Contender]:
    from routing_transformer import routing_transformer as peer

    heads, n, width = q.shape
    _, count, size = query_clusters.shape
    layer = peer.KmeansAttention(count, size, heads, width).eval()
    nothing = torch.empty(1, heads, 2 * n, count)
    layer.kmeans = given((nothing, None))
    turns = itertools.cycle(x[None].flatten(2) for x in tensors(query_clusters, key_clusters))
    choose, batch = (lambda *_: next(turns)), [x[None] for x in tensors(q, k, v)]

    def call():
        with mock.patch.object(peer, "distribution", choose):
            return layer(*batch)[0]
    return [Contender(versioned("routing-transformer"), call, lambda out: out[0].numpy())]


def sinkhorn_transformer(q: Array, k: Array, v: Array, *, sort: Array, block: int,
                         keep: int = 0) -> list[Contender]:
    """Its sorted values are sorted keys by mistake, so it is given values that are the keys.

    Cut short, its blocks of queries are twice as long: else it would see its own block too.
    """
    from sinkhorn_transformer.sinkhorn_transformer import SinkhornAttention

    heads, n, width = q.shape
    layer = SinkhornAttention(2 * block if keep else block, heads * width, width, heads, n, n_sortcut=keep,
                              non_permutative=False, kv_bucket_size=block)
    batch = [x[None] for x in tensors(q, k, v)]
    layer.sort_net = given(torch.from_numpy(sort))
    layer.eval()
    return [Contender(versioned("sinkhorn-transformer"), lambda: layer(*batch), lambda out: out[0].numpy())]


def linformer(q: Array, k: Array, v: Array, *, key_projection: Array,
              value_projection: Array) -> list[Contender]:
    from linformer import LinformerSelfAttention

    heads, n, width = q.shape
    q, k, v = map(rows, (q, k, v))
    layer = projecting(LinformerSelfAttention(heads * width, n, len(key_projection), heads), to_q=given(q),
                       to_k=given(k), to_v=given(v), to_out=torch.nn.Identity())
    layer.proj_k.copy_(torch.from_numpy(key_projection).T)
    layer.proj_v.copy_(torch.from_numpy(value_projection).T)
    return [Contender(versioned("linformer"), lambda: layer(q), partial(split, heads=heads))]


def memory_compressed(q: Array, k: Array, v: Array, *, key_kernel: Array, causal: bool = False,
                      **_) -> list[Contender]:
    from memory_compressed_attention import MemoryCompressedAttention

    heads, n, width = q.shape
    q, k, v = map(rows, (q, k, v))
    layer = projecting(MemoryCompressedAttention(heads * width, heads, causal, key_kernel.shape[1]),
                       to_qkv=given(torch.cat([q, k, v], -1)), to_out=torch.nn.Identity())
    conv = layer.compress_fn.conv  # weight (heads * out, in, position)
    conv.weight.copy_(torch.from_numpy(key_kernel).permute(0, 3, 2, 1).flatten(0, 1))
    conv.bias.zero_()
    return [Contender(versioned("memory-compressed-attention"), lambda: layer(q),
                      partial(split, heads=heads))]


def fast_transformers(q: Array, k: Array, v: Array, *, causal: bool = False) -> list[Contender]:
    from fast_transformers.attention.causal_linear_attention import CausalLinearAttention
    from fast_transformers.attention.linear_attention import LinearAttention
    from fast_transformers.masking import FullMask, LengthMask, TriangularCausalMask

    n, width = q.shape[1:]
    layer = (CausalLinearAttention if causal else LinearAttention)(width).eval()
    mask = TriangularCausalMask(n) if causal else FullMask(n, n)
    every = LengthMask(torch.tensor([n]))
    batch = [x.transpose(0, 1)[None].contiguous() for x in tensors(q, k, v)]
    return [Contender(versioned("pytorch-fast-transformers"), lambda: layer(*batch, mask, every, every),
                      lambda out: out[0].transpose(0, 1).numpy())]


def performer_pytorch(q: Array, k: Array, v: Array, *, projection: Array,
                      causal: bool = False) -> list[Contender]:
    """Causal: as it is without CUDA, and with the product on the CPU that fast-transformers has for it."""
    from performer_pytorch import performer_pytorch as peer

    with contextlib.redirect_stdout(io.StringIO()):  # it reports that its CUDA kernel is absent
        layer = peer.FastAttention(q.shape[-1], len(projection), causal=causal)
    layer.projection_matrix.copy_(torch.from_numpy(projection))
    batch, name = [x[None] for x in tensors(q, k, v)], versioned("performer-pytorch")
    found = [Contender(name, lambda: layer(*batch), lambda out: out[0].numpy())]
    if causal and contest.load("fast_transformers", FAST_TRANSFORMERS):
        def call():
            with mock.patch.object(layer, "causal_linear_fn", peer.causal_linear_attention):
                return layer(*batch)
        found.append(Contender(f"{name} on fast-transformers", call, lambda out: out[0].numpy()))
    return found


def hf_xlnet(q: Array, k: Array, v: Array, *, relative_keys: Array, content_bias: Array,
             position_bias: Array) -> list[Contender]:
    """It takes one distance more than there are pairs, the farthest, which its shift drops."""
    from transformers import XLNetConfig
    from transformers.models.xlnet.modeling_xlnet import XLNetRelativeAttention

    heads, n, width = q.shape
    m = k.shape[1]
    layer = XLNetRelativeAttention(XLNetConfig(d_model=heads * width, n_head=heads, dropout=0.0)).eval()
    layer.r_w_bias.copy_(torch.from_numpy(content_bias))
    layer.r_r_bias.copy_(torch.from_numpy(position_bias))
    far = np.concatenate([relative_keys, np.zeros_like(relative_keys[:, :1])], axis=1)[:, ::-1]
    batch = [torch.from_numpy(np.ascontiguousarray(x.swapaxes(0, 1)))[:, None] for x in (q, k, v, far)]
    hidden = torch.ones(n, m).triu(1 + m - n)[..., None, None]
    return [Contender(f"{versioned('transformers')} XLNet", lambda: layer.rel_attn_core(
        *batch, attn_mask=hidden), lambda out: out[:, 0].transpose(0, 1).numpy())]


def compressive_transformer(q: Array, k: Array, v: Array, *, memory: tuple[Array, Array],
                            compressed: tuple[Array, Array], relative_keys: Array) -> list[Contender]:
    """Attention to both memories; the compression that follows it in the same module is switched off."""
    from compressive_transformer_pytorch.compressive_transformer_pytorch import SelfAttention

    heads, n, width = q.shape
    older, old = compressed[0].shape[1], memory[0].shape[1]
    keys, values = (rows(np.concatenate(parts, axis=1))
                    for parts in zip(compressed, memory, (k, v), strict=True))
    layer = projecting(SelfAttention(heads * width, n, old, older, heads=heads), to_q=given(rows(q)),
                       to_kv=given(torch.cat([keys, values], -1)), to_out=torch.nn.Identity())
    x, *memories = (torch.empty(1, length, heads * width) for length in (n, old, older))
    by_place = torch.from_numpy(relative_keys[:, ::-1].copy())  # its last row is for distance 0
    call = lambda: layer(x, memories, by_place, calc_memory=False)[0]
    return [Contender(versioned("compressive-transformer-pytorch"), call, partial(split, heads=heads))]


FAST_TRANSFORMERS = ("not on the index as a wheel: with torch installed and without nvcc on the PATH, "
                     "pip install --no-build-isolation pytorch-fast-transformers==0.4.0")
HINTS = {
    "fast_transformers": FAST_TRANSFORMERS,
    "adaptive-span": "git clone https://github.com/facebookresearch/adaptive-span into the folder of "
                     "--peer-dir, commit 27b815f (CC-BY-NC 4.0)",
}
