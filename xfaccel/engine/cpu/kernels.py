"""Which micro-kernels this process runs: the one place that chooses between their two forms.

XFACCEL_KERNELS=plain asks for the plain loops; runs without JIT compilation have nothing else. `tile` holds
the kernels of the softmax engine, which the scan engine shares, `features` those of the scan engine alone,
`rows` those for keys that lie anywhere, `pairs` those for products of bfloat16.
"""

import os

from numba.core import config
from numba.core.registry import cpu_target

from xfaccel.engine.cpu import cache, vector

_CHOSEN = os.environ.get("XFACCEL_KERNELS", "")
if _CHOSEN not in ("", "plain"):
    raise ValueError(f"XFACCEL_KERNELS needs 'plain' or nothing, got {_CHOSEN!r}")
PLAIN = bool(config.DISABLE_JIT) or _CHOSEN == "plain"

with cache.enabled():
    if PLAIN:
        from xfaccel.engine.cpu import features_plain as features
        from xfaccel.engine.cpu import pairs_plain as pairs
        from xfaccel.engine.cpu import rows_plain as rows
        from xfaccel.engine.cpu import tile_plain as tile
    else:
        from xfaccel.engine.cpu import features_simd as features
        from xfaccel.engine.cpu import pairs_simd as pairs
        from xfaccel.engine.cpu import rows_simd as rows
        from xfaccel.engine.cpu import tile_simd as tile

if not config.DISABLE_JIT:
    # Numba reads its own declarations when it first needs them, for a quarter of a second: better now than in
    # the first call
    cpu_target.typing_context.refresh()

__all__ = ["PLAIN", "describe", "features", "pairs", "rows", "tile"]


def describe() -> str:
    """The micro-kernels in use, in a few words."""
    if PLAIN:
        return "plain loops"
    size = vector.vector_bytes()
    return f"vectors of {size} bytes ({size // 4} x float32, {size // 8} x float64)"
