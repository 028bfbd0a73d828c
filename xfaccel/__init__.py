"""Efficient attention, fast: the names and signatures of `xfref`, for NumPy arrays, on the CPU's vector units."""

from xfaccel import patterns
from xfaccel.core import attention, attention_lse, layer_norm, merge, softmax

__all__ = [
    "softmax", "layer_norm", "attention", "attention_lse", "merge",                      # the definition
    "patterns",                                                                         # who sees whom
]
