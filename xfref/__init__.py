"""Efficient attention, 2017-2020, as a book: one short NumPy page per paper, in reading order.

`xfaccel` has the same names and signatures, made fast. Every page states its paper, its equation beside the
line that is it, the shapes `(...,n,d),(...,m,d),(...,m,e)->(...,n,e)`, its cost and how it differs.
"""

from xfref import lra, patterns
from xfref.core import attention, attention_lse, layer_norm, merge, quantize_rows, softmax
from xfref.fixed.adaptive_span import adaptive_span, dynamic_span, span_penalty
from xfref.fixed.axial import axial, axial_transformer, axial_transformer_weights
from xfref.fixed.bigbird import bigbird, bigbird_random_blocks
from xfref.fixed.block_local import block_local
from xfref.fixed.etc import etc, relative_label_bias
from xfref.fixed.image import image_1d, image_2d
from xfref.fixed.longformer import longformer
from xfref.fixed.random_tokens import random_tokens
from xfref.fixed.shaw import shaw
from xfref.fixed.sliding_window import sliding_window
from xfref.fixed.sparse_transformer import sparse_fixed, sparse_strided
from xfref.fixed.star import star_ring, star_transformer, star_transformer_weights
from xfref.half import any_float as _any_float
from xfref.kernel.linear_transformer import linear_transformer, linear_transformer_step
from xfref.kernel.performer import favor_projection, performer, performer_step
from xfref.learned.reformer import lsh_buckets, lsh_rotations, reformer
from xfref.learned.routing import routing, routing_clusters, update_centroids
from xfref.learned.sinkhorn import sinkhorn, sinkhorn_cut, sinkhorn_sort
from xfref.lowrank.linformer import linformer, pooling_projection
from xfref.lowrank.memory_compressed import memory_compressed
from xfref.lowrank.set_transformer import isab, mab, mab_weights, pma, pma_weights, sab
from xfref.lowrank.synthesizer import (
    dense_logits,
    factorized_dense_logits,
    factorized_random_logits,
    random_logits,
    synthesizer,
)
from xfref.recurrent.compressive_transformer import (
    compress_conv,
    compress_dilated,
    compress_max,
    compress_mean,
    compress_most_used,
    compressive_transformer,
    compressive_update,
    reconstruction_loss,
)
from xfref.recurrent.transformer_xl import transformer_xl
from xfref.transformer import (
    encoder_block,
    encoder_block_weights,
    feed_forward,
    feed_forward_weights,
    multi_head,
    multi_head_weights,
    reversible_block,
    reversible_inverse,
    sinusoidal_positions,
)

__all__ = [
    "softmax", "layer_norm", "attention", "attention_lse", "merge", "quantize_rows",     # the definition
    "patterns",                                                                         # who sees whom
    "sinusoidal_positions", "multi_head", "multi_head_weights", "feed_forward",         # around attention
    "feed_forward_weights", "encoder_block", "encoder_block_weights", "reversible_block",
    "reversible_inverse",
    "block_local", "sliding_window", "random_tokens",                                   # fixed patterns
    "star_ring", "star_transformer", "star_transformer_weights", "sparse_strided", "sparse_fixed",
    "longformer", "etc", "relative_label_bias", "bigbird", "bigbird_random_blocks", "image_1d", "image_2d",
    "axial", "axial_transformer", "axial_transformer_weights",
    "adaptive_span", "dynamic_span", "span_penalty", "shaw",                            # terms by distance
    "lsh_buckets", "lsh_rotations", "reformer",                                         # learned patterns
    "routing_clusters", "update_centroids", "routing", "sinkhorn_sort", "sinkhorn", "sinkhorn_cut",
    "linformer", "pooling_projection",                                                  # low rank
    "synthesizer", "dense_logits", "factorized_dense_logits", "random_logits",
    "factorized_random_logits", "memory_compressed",
    "mab", "sab", "isab", "pma", "mab_weights", "pma_weights",
    "linear_transformer", "linear_transformer_step",                                    # kernels
    "performer", "performer_step", "favor_projection",
    "transformer_xl",                                                                   # recurrence
    "compressive_transformer", "compress_mean", "compress_max", "compress_conv", "compress_dilated",
    "compress_most_used", "compressive_update", "reconstruction_loss",
    "lra",                                                                              # Long Range Arena
]

# numbers of 16 bits too; denominators, scales and states stay float32
_WIDE = {"attention_lse": (1,), "merge": (1,), "quantize_rows": (1,), "linear_transformer_step": (0,),
         "performer_step": (0,)}
for _name in __all__:
    if callable(globals()[_name]):
        globals()[_name] = _any_float(globals()[_name], _WIDE.get(_name, ()))
del _name
