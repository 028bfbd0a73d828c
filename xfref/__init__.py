"""Efficient attention, 2017-2020, as a book: one short NumPy page per paper, in reading order.

`xfaccel` has the same names and signatures, made fast. Every page states its paper, its equation beside the
line that is it, the shapes `(...,n,d),(...,m,d),(...,m,e)->(...,n,e)`, its cost and how it differs.
"""

from xfref import lra, patterns
from xfref.core import attention, attention_lse, layer_norm, merge, softmax
from xfref.fixed.block_local import block_local
from xfref.fixed.longformer import longformer
from xfref.fixed.sliding_window import sliding_window
from xfref.kernel.linear_transformer import linear_transformer, linear_transformer_step
from xfref.kernel.performer import favor_projection, performer, performer_step
from xfref.lowrank.linformer import linformer, pooling_projection
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
    sinusoidal_positions,
)

__all__ = [
    "softmax", "layer_norm", "attention", "attention_lse", "merge",                      # the definition
    "patterns",                                                                         # who sees whom
    "sinusoidal_positions", "multi_head", "multi_head_weights", "feed_forward",         # around attention
    "feed_forward_weights", "encoder_block", "encoder_block_weights",
    "block_local", "sliding_window", "longformer",                                      # fixed patterns
    "linformer", "pooling_projection",                                                  # low rank
    "linear_transformer", "linear_transformer_step",                                    # kernels
    "performer", "performer_step", "favor_projection",
    "transformer_xl",                                                                   # recurrence
    "compressive_transformer", "compress_mean", "compress_max", "compress_conv", "compress_dilated",
    "compress_most_used", "compressive_update", "reconstruction_loss",
    "lra",                                                                              # Long Range Arena
]
