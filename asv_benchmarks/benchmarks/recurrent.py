"""Recurrence: a segment of n tokens and the memories before it."""

from . import measure
from .measure import HEADS, WIDTH, Variant, normal


def _by_distance(n):
    content_bias, position_bias = normal(2, HEADS, WIDTH)
    return dict(relative_keys=normal(HEADS, n, WIDTH), content_bias=content_bias, position_bias=position_bias)


def _segment(n):
    """The last half of n tokens: the first is its memory."""
    q, k, v = measure.qkv(n)
    return q[:, n // 2:], k, v


def _half(n):
    return dict(n=n // 2)


def _memories(n):
    """As long as the segment, and half as long for what was compressed, at rate 2 the memory of two."""
    memory, compressed = (tuple(normal(2, HEADS, length, WIDTH)) for length in (n, n // 2))
    return dict(memory=memory, compressed=compressed) | _by_distance(n + n // 2 + n)


VARIANTS = {
    "transformer_xl": Variant("transformer_xl", _by_distance),
    "transformer_xl, memory": Variant("transformer_xl", _by_distance, _segment, letters=_half),
    "transformer_xl, same length": Variant(
        "transformer_xl", lambda n: _by_distance(n) | dict(same_length=True), _segment, letters=_half),
    "compressive_transformer": Variant("compressive_transformer", _memories,
                                       letters=lambda n: dict(n_c=n // 2, n_m=n)),
}

time_recurrent, track_recurrent_memory, track_recurrent_error, track_recurrent_ratio = measure.benchmarks(
    "recurrent", "Recurrence", VARIANTS)
