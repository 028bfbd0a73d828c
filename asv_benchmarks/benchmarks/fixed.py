"""Fixed patterns: who sees whom does not depend on the data."""

import math

import numpy as np

from . import measure
from .measure import HEADS, WIDTH, Variant, normal, qkv

BLOCK, RANDOM = 64, 3    # of BigBird
GLOBAL, RADIUS = 64, 84  # of ETC
LONGEST = 512
SPANS = np.geomspace(8, LONGEST, HEADS, dtype=np.float32)[:, None]  # most heads look at what is near


def _drawn(n):
    """64 keys for every query, the same for all heads."""
    return dict(indices=np.random.default_rng(n).integers(0, n, (n, 64)))


def _ring(n):
    return dict(key_embedded=normal(HEADS, n, WIDTH), value_embedded=normal(HEADS, n, WIDTH),
                key_relay=normal(HEADS, 1, WIDTH), value_relay=normal(HEADS, 1, WIDTH))


def _random_blocks(n):
    rng, blocks = np.random.default_rng(n), -(-n // BLOCK)
    return dict(block=BLOCK, random_blocks=rng.integers(0, blocks, (HEADS, blocks, RANDOM)))


def _streams(n):
    return (*qkv(n), *normal(3, HEADS, GLOBAL, WIDTH))


def _image(n):
    """The shape of an image of n pixels, 64 wide where that divides n."""
    width = math.gcd(n, 64)
    return n // width, width


VARIANTS = {
    "block_local": Variant("block_local", lambda n: dict(block=64)),
    "sliding_window": Variant("sliding_window", lambda n: dict(left=128, right=128)),
    "sliding_window, dilated": Variant("sliding_window", lambda n: dict(left=128, right=128, dilation=2)),
    "random_tokens": Variant("random_tokens", _drawn, letters=lambda n: dict(r=64)),
    "star_ring": Variant("star_ring", _ring),
    "sparse_strided": Variant("sparse_strided", lambda n: dict(stride=64)),
    "sparse_fixed": Variant("sparse_fixed", lambda n: dict(stride=128, summary=32)),
    "longformer": Variant("longformer", lambda n: dict(window=256, global_tokens=[0]),
                          letters=lambda n: dict(g=1)),
    "longformer, causal": Variant("longformer", lambda n: dict(window=256, global_tokens=[0], causal=True),
                                  letters=lambda n: dict(g=1)),
    "etc": Variant("etc", lambda n: dict(radius=RADIUS), _streams, letters=lambda n: dict(g=GLOBAL)),
    "etc, biased": Variant("etc", lambda n: dict(
        radius=RADIUS, long_bias=normal(HEADS, n, 2 * RADIUS + 1)), _streams,
        letters=lambda n: dict(g=GLOBAL)),
    "bigbird": Variant("bigbird", _random_blocks, letters=lambda n: dict(planes=HEADS, r=RANDOM)),
    "adaptive_span": Variant("adaptive_span", lambda n: dict(span=SPANS, ramp=32),
                             letters=lambda n: dict(span=LONGEST, rows=2)),
    "adaptive_span, positions": Variant("adaptive_span", lambda n: dict(
        span=SPANS, ramp=32, position_keys=normal(1025, WIDTH)),
        letters=lambda n: dict(span=LONGEST, rows=2)),
    "shaw": Variant("shaw", lambda n: dict(key_table=normal(33, WIDTH), value_table=normal(33, WIDTH)),
                    letters=lambda n: dict(c=16, rows=n)),
    "image_1d": Variant("image_1d", lambda n: dict(block=256, memory=256)),
    "image_2d": Variant("image_2d", lambda n: dict(shape=_image(n), block=(16, 16), flange=(16, 32)),
                        letters=lambda n: dict(b=16, f=16)),
    "axial, rows": Variant("axial", lambda n: dict(shape=_image(n), axis=1)),
    "axial, columns": Variant("axial", lambda n: dict(shape=_image(n), axis=0)),
}

time_fixed, track_fixed_memory, track_fixed_error, track_fixed_ratio = measure.benchmarks(
    "fixed", "Fixed patterns", VARIANTS)
