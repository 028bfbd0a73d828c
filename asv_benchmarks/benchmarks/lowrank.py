"""Low rank: all keys in a few slots, or weights of low rank that no keys are needed for."""

from . import measure
from .measure import HEADS, WIDTH, Variant, normal

SLOTS = 256
RANK = 8       # of the logits of a synthesizer
STRIDE = 3     # of memory-compressed attention


def _projections(n):
    key_projection, value_projection = normal(2, SLOTS, n) / n**0.5
    return dict(key_projection=key_projection, value_projection=value_projection)


def _values_and_logits(n):
    r1, r2 = normal(2, HEADS, n, RANK)
    return normal(HEADS, n, WIDTH), r1 @ r2.swapaxes(-1, -2)


def _kernels(n):
    key_kernel, value_kernel = normal(2, STRIDE, WIDTH, WIDTH) / (STRIDE * WIDTH) ** 0.5
    return dict(key_kernel=key_kernel, value_kernel=value_kernel)


def _stride(n):
    return dict(c=STRIDE)


VARIANTS = {
    "linformer": Variant("linformer", _projections, letters=lambda n: dict(r=SLOTS)),
    "synthesizer": Variant("synthesizer", arguments=_values_and_logits),
    "memory_compressed": Variant("memory_compressed", _kernels, letters=_stride),
    "memory_compressed, causal": Variant("memory_compressed", lambda n: _kernels(n) | dict(causal=True),
                                         letters=_stride),
}

time_lowrank, track_lowrank_memory, track_lowrank_error, track_lowrank_ratio = measure.benchmarks(
    "lowrank", "Low rank", VARIANTS)
