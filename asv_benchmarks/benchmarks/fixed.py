"""Fixed patterns: who sees whom does not depend on the data."""

import numpy as np

from . import measure
from .measure import HEADS, WIDTH, Variant, normal

SPANS = np.geomspace(8, 512, HEADS, dtype=np.float32)[:, None]  # most heads look at what is near

VARIANTS = {
    "block_local": Variant("block_local", lambda n: dict(block=64)),
    "sliding_window": Variant("sliding_window", lambda n: dict(left=128, right=128)),
    "sliding_window, dilated": Variant("sliding_window", lambda n: dict(left=128, right=128, dilation=2)),
    "longformer": Variant("longformer", lambda n: dict(window=256, global_tokens=[0])),
    "longformer, causal": Variant("longformer", lambda n: dict(window=256, global_tokens=[0], causal=True)),
    "adaptive_span": Variant("adaptive_span", lambda n: dict(span=SPANS, ramp=32)),
    "adaptive_span, positions": Variant("adaptive_span", lambda n: dict(
        span=SPANS, ramp=32, position_keys=normal(1025, WIDTH))),
    "shaw": Variant("shaw", lambda n: dict(key_table=normal(33, WIDTH), value_table=normal(33, WIDTH))),
}

time_fixed, track_fixed_workspace, track_fixed_error, track_fixed_ratio = measure.benchmarks(
    "fixed", VARIANTS)
