"""Low rank: all keys in a few slots."""

from . import measure
from .measure import Variant, normal

SLOTS = 256


def _projections(n):
    key_projection, value_projection = normal(2, SLOTS, n) / n**0.5
    return dict(key_projection=key_projection, value_projection=value_projection)


VARIANTS = {
    "linformer": Variant("linformer", _projections),
}

time_lowrank, track_lowrank_workspace, track_lowrank_error, track_lowrank_ratio = measure.benchmarks(
    "lowrank", VARIANTS)
