"""Fixed patterns: who sees whom does not depend on the data."""

import math

from . import measure
from .measure import Variant


def image(n):
    """The shape of an image of n pixels, 64 wide where that divides n."""
    width = math.gcd(n, 64)
    return n // width, width


VARIANTS = {
    "block_local": Variant("block_local", lambda n: dict(block=64)),
    "sliding_window": Variant("sliding_window", lambda n: dict(left=128, right=128)),
    "sliding_window, dilated": Variant("sliding_window", lambda n: dict(left=128, right=128, dilation=2)),
    "longformer": Variant("longformer", lambda n: dict(window=256, global_tokens=[0])),
    "longformer, causal": Variant("longformer", lambda n: dict(window=256, global_tokens=[0], causal=True)),
    "image_1d": Variant("image_1d", lambda n: dict(block=256, memory=256)),
    "image_2d": Variant("image_2d", lambda n: dict(shape=image(n), block=(16, 16), flange=(16, 32))),
    "axial, rows": Variant("axial", lambda n: dict(shape=image(n), axis=1)),
    "axial, columns": Variant("axial", lambda n: dict(shape=image(n), axis=0)),
}

time_fixed, track_fixed_workspace, track_fixed_error, track_fixed_ratio = measure.benchmarks(
    "fixed", VARIANTS)
