"""Fixed patterns: who sees whom does not depend on the data."""

from . import measure
from .measure import Variant

VARIANTS = {
    "block_local": Variant("block_local", lambda n: dict(block=64)),
    "sliding_window": Variant("sliding_window", lambda n: dict(left=128, right=128)),
    "sliding_window, dilated": Variant("sliding_window", lambda n: dict(left=128, right=128, dilation=2)),
    "longformer": Variant("longformer", lambda n: dict(window=256, global_tokens=[0])),
    "longformer, causal": Variant("longformer", lambda n: dict(window=256, global_tokens=[0], causal=True)),
}

time_fixed, track_fixed_workspace, track_fixed_error, track_fixed_ratio = measure.benchmarks(
    "fixed", VARIANTS)
