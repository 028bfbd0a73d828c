"""Which micro-kernels this process runs: the one place that chooses between their forms.

XFACCEL_KERNELS=plain asks for the plain loops, which say the same and are what un-jitted runs use.
"""

from xfaccel.engine.cpu import cache

with cache.enabled():
    from xfaccel.engine.cpu.plain import (
        accumulate,
        add_bias,
        copy_seen,
        fill,
        hide_band,
        hide_bits,
        hide_keys,
        hide_mask,
        pack,
        scores,
        seen_keys,
        softmax,
        unpack,
    )

__all__ = ["accumulate", "add_bias", "copy_seen", "describe", "fill", "hide_band", "hide_bits", "hide_keys",
           "hide_mask", "pack", "scores", "seen_keys", "softmax", "unpack"]


def describe() -> str:
    """The micro-kernels in use, in a few words."""
    return "plain loops"
