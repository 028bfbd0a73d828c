"""Efficient attention, fast: the names and signatures of `xfref`, on the vector units of the CPU."""

from xfaccel import patterns
from xfaccel.core import attention, attention_lse, layer_norm, merge, softmax
from xfaccel.fixed.block_local import block_local
from xfaccel.fixed.longformer import longformer
from xfaccel.fixed.sliding_window import sliding_window
from xfaccel.kernel.linear_transformer import linear_transformer, linear_transformer_step
from xfaccel.kernel.performer import performer, performer_step
from xfaccel.lowrank.linformer import linformer
from xfaccel.recurrent.compressive_transformer import compressive_transformer
from xfaccel.recurrent.transformer_xl import transformer_xl

__all__ = [
    "softmax", "layer_norm", "attention", "attention_lse", "merge",                      # the definition
    "patterns",                                                                         # who sees whom
    "block_local", "sliding_window", "longformer",                                      # fixed patterns
    "linformer",                                                                        # low rank
    "linear_transformer", "linear_transformer_step", "performer", "performer_step",     # kernels
    "transformer_xl", "compressive_transformer",                                        # recurrence
]
