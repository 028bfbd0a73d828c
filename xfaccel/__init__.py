"""Efficient attention, fast: the names and signatures of `xfref`, on the vector units of the CPU.

Arrays of CuPy are taken too: what is called with them computes on their GPU and returns such arrays.
"""

from xfaccel import patterns
from xfaccel.control import set_threads, warmup
from xfaccel.core import attention, attention_lse, layer_norm, merge, quantize_rows, softmax
from xfaccel.fixed.adaptive_span import adaptive_span
from xfaccel.fixed.axial import axial
from xfaccel.fixed.bigbird import bigbird
from xfaccel.fixed.block_local import block_local
from xfaccel.fixed.etc import etc
from xfaccel.fixed.image import image_1d, image_2d
from xfaccel.fixed.longformer import longformer
from xfaccel.fixed.random_tokens import random_tokens
from xfaccel.fixed.shaw import shaw
from xfaccel.fixed.sliding_window import sliding_window
from xfaccel.fixed.sparse_transformer import sparse_fixed, sparse_strided
from xfaccel.fixed.star import star_ring
from xfaccel.half import any_float as _any_float
from xfaccel.kernel.linear_transformer import linear_transformer, linear_transformer_step
from xfaccel.kernel.performer import performer, performer_step
from xfaccel.learned.reformer import lsh_buckets, reformer
from xfaccel.learned.routing import routing, routing_clusters
from xfaccel.learned.sinkhorn import sinkhorn, sinkhorn_cut, sinkhorn_sort
from xfaccel.lowrank.linformer import linformer
from xfaccel.lowrank.memory_compressed import memory_compressed
from xfaccel.lowrank.synthesizer import synthesizer
from xfaccel.recurrent.compressive_transformer import compressive_transformer
from xfaccel.recurrent.transformer_xl import transformer_xl

__all__ = [
    "softmax", "layer_norm", "attention", "attention_lse", "merge", "quantize_rows",     # the definition
    "patterns",                                                                         # who sees whom
    "block_local", "sliding_window", "random_tokens", "star_ring", "sparse_strided",    # fixed patterns
    "sparse_fixed", "longformer", "etc", "bigbird", "image_1d", "image_2d", "axial",
    "adaptive_span", "shaw",                                                            # terms by distance
    "lsh_buckets", "reformer", "routing_clusters", "routing",                           # learned patterns
    "sinkhorn_sort", "sinkhorn", "sinkhorn_cut",
    "linformer", "synthesizer", "memory_compressed",                                    # low rank
    "linear_transformer", "linear_transformer_step", "performer", "performer_step",     # kernels
    "transformer_xl", "compressive_transformer",                                        # recurrence
    "set_threads", "warmup",                                                            # the process
]

# numbers of 16 bits too; denominators, scales and states stay float32
_WIDE = {"attention_lse": (1,), "merge": (1,), "quantize_rows": (1,), "linear_transformer_step": (0,),
         "performer_step": (0,)}
for _name in __all__:
    if callable(globals()[_name]) and _name not in ("set_threads", "warmup"):
        globals()[_name] = _any_float(globals()[_name], _WIDE.get(_name, ()))
del _name
