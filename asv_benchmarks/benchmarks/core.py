"""The definition: softmax attention and what stands around it."""

from . import measure
from .measure import HEADS, WIDTH, Variant, normal


def _rows(n):
    return (normal(HEADS, n, WIDTH),)


def _row_count(n):
    return dict(rows=HEADS * n)


def _partial_results(n):
    outs, lses = normal(2, HEADS, n, WIDTH), normal(2, HEADS, n)
    return outs[0], lses[0], outs[1], lses[1]


def _with_pattern(package, name, arguments, options):
    """The pattern is made anew in every call: it belongs to the cost."""
    n, patterns = arguments[0].shape[-2], package.patterns
    mask = patterns.window(n, left=128, right=128) | patterns.hubs(n, [0])
    return package.attention(*arguments, mask=mask)


VARIANTS = {
    "softmax": Variant("softmax", arguments=_rows, letters=_row_count),
    "layer_norm": Variant("layer_norm", lambda n: dict(gain=normal(WIDTH), bias=normal(WIDTH)), _rows,
                          letters=_row_count),
    "attention": Variant("attention"),
    "attention, causal": Variant("attention", lambda n: dict(causal=True)),
    "attention_lse": Variant("attention_lse", lambda n: dict(key_mask=normal(n) < 1)),
    "merge": Variant("merge", arguments=_partial_results),
    "quantize_rows": Variant("quantize_rows", arguments=_rows,
                             letters=lambda n: _row_count(n) | dict(w=WIDTH)),
    "patterns": Variant("patterns", call=_with_pattern),
}

time_core, track_core_memory, track_core_error, track_core_ratio = measure.benchmarks(
    "core", "Attention", VARIANTS)
