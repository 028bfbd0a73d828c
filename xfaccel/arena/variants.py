"""The rows of the arena: every attention of both packages that can stand on the q, k, v of one sequence.

What is learned in a model (projections, centroids, tables by distance) is drawn here, or made from q, k, v.
What the data decide anew in every call (buckets, clusters, sorted blocks) is decided inside the call, as a
user would have to. A parameter that has to grow with n for the cost that the paper states is a function of n;
its factor leaves a query enough keys that scores, not reading and writing n rows, take most of the time.
"""

import math
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import NamedTuple

import numpy as np

import xfref
from xfaccel import patterns
from xfaccel.patterns import Pattern

Array = np.ndarray
GLOBAL = 64     # tokens of ETC's global stream
CHUNK, ROUNDS = 64, 4
SEGMENT = 512   # of the recurrent papers, whose memory is as long, as in the Compressive Transformer's PG-19
RATE = 4        # at which the Compressive Transformer compresses what is older


def _plain(function: Callable, q: Array, k: Array, v: Array, **arguments: object) -> object:
    return function(q, k, v, **arguments)


class Variant(NamedTuple):
    """A row: the function of both packages, what the table says of it, and how it is called."""

    name: str
    function: str
    parameters: str
    cost: str
    # of q, k, v and a source of random numbers: what a model would have at hand
    arguments: Callable[[Array, Array, Array, np.random.Generator], dict] = lambda q, k, v, rng: {}
    # of a package, q, k, v and these arguments: those of the function, with what each call decides anew
    decide: Callable[..., dict] | None = None
    call: Callable[..., object] = _plain
    # of n, the head and the arguments of the function: who sees whom, where a mask says all
    pattern: Callable[..., Pattern] | None = None
    exact: str = "attention"  # the row that it is compared with
    # of the arguments and a width of values: those with which the result is weights times values
    linear: Callable[[dict, int], dict] = lambda arguments, width: arguments

    @property
    def exponent(self) -> float:
        """The power of n in the cost."""
        return float(self.cost.split()[0].partition("^")[2] or 1)


def _root(n: int, factor: int = 1) -> int:
    return round(factor * n**0.5)


def _grid(n: int, flatness: int = 1) -> tuple[int, int]:
    """Height and width of n positions, the nearest to each other with width >= flatness^2 height."""
    height = max(h for h in range(1, max(math.isqrt(n) // flatness, 1) + 1) if n % h == 0)
    return height, n // height


def _stretch_means(x: Array, number: int) -> Array:
    """The means of `number` equal stretches of x (..., n, width)."""
    starts = np.arange(number) * x.shape[-2] // number
    counts = np.diff(starts, append=x.shape[-2])
    return np.add.reduceat(x, starts, axis=-2) / counts[:, None].astype(x.dtype)


def _ring(q: Array, k: Array, v: Array, rng: np.random.Generator) -> dict:
    """The first step: states are the embeddings, the relay is their mean."""
    return dict(key_embedded=k, value_embedded=v, key_relay=_stretch_means(k, 1),
                value_relay=_stretch_means(v, 1))


def _global_stream(q: Array, k: Array, v: Array, rng: np.random.Generator) -> dict:
    """A global token for each of 64 stretches, the mean of its tokens."""
    means = (_stretch_means(x, min(GLOBAL, x.shape[-2])) for x in (q, k, v))
    return dict(zip(("global_q", "global_k", "global_v"), means, strict=True)) | dict(radius=84)


def _random_blocks(q: Array, k: Array, v: Array, rng: np.random.Generator) -> dict:
    heads, n, _ = q.shape
    return dict(block=64, random_blocks=xfref.bigbird_random_blocks(rng, -(-n // 64), 3, heads))


def _bigbird_pattern(n: int, head: int, *, block: int, random_blocks: Array) -> Pattern:
    table, own = random_blocks[head].copy(), np.arange(n) // block
    table[[0, -1]] = 0
    ends = np.flatnonzero((own == 0) | (own == own[-1]))
    return patterns.same_block(n, block, 1, 1) | patterns.hubs(n, ends) | patterns.blocks(table, block, n)


def _tables(q: Array, k: Array, v: Array, rng: np.random.Generator) -> dict:
    key_table, value_table = rng.standard_normal((2, 33, q.shape[-1]))
    return dict(key_table=key_table, value_table=value_table)


def _rotations(q: Array, k: Array, v: Array, rng: np.random.Generator) -> dict:
    """Two hashes whose pairs are the buckets, two to a chunk: one alone would cost n^2."""
    bits = max(round(math.log2(2 * q.shape[-2] / CHUNK)), 2)
    coarse, fine = (xfref.lsh_rotations(rng, q.shape[-1], ROUNDS, 1 << part)
                    for part in (bits - bits // 2, bits // 2))
    return dict(coarse=coarse, fine=fine)


def _hashed(package: ModuleType, q: Array, k: Array, v: Array, *, coarse: Array, fine: Array) -> dict:
    high, low = (package.lsh_buckets(q, rotations) for rotations in (coarse, fine))
    return dict(buckets=high * (2 * fine.shape[-1]) + low, chunk=CHUNK)


def _centroids(q: Array, k: Array, v: Array, rng: np.random.Generator) -> dict:
    return dict(centroids=rng.standard_normal((_root(q.shape[-2]), q.shape[-1])))


def _clustered(package: ModuleType, q: Array, k: Array, v: Array, *, centroids: Array) -> dict:
    one, zero = np.ones(q.shape[-1]), np.zeros(q.shape[-1])
    queries, keys = (package.routing_clusters(package.layer_norm(x, one, zero), centroids, _root(x.shape[-2]))
                     for x in (q, k))
    return dict(query_clusters=queries, key_clusters=keys)


def _sort_logits(q: Array, k: Array, v: Array, rng: np.random.Generator) -> dict:
    heads, n, _ = q.shape
    blocks = -(-n // _root(n, 2))
    return dict(logits=rng.standard_normal((heads, blocks, blocks)))


def _sorted(package: ModuleType, q: Array, k: Array, v: Array, *, logits: Array, **options: int) -> dict:
    return dict(sort=package.sinkhorn_sort(logits, iterations=8), block=_root(q.shape[-2], 2)) | options


def _slots(q: Array, k: Array, v: Array, rng: np.random.Generator) -> dict:
    key_projection, value_projection = rng.standard_normal((2, 256, k.shape[-2])) * k.shape[-2] ** -0.5
    return dict(key_projection=key_projection, value_projection=value_projection)


def _random_logits(q: Array, k: Array, v: Array, rng: np.random.Generator) -> dict:
    """One table for all heads, of rank 8."""
    r1, r2 = rng.standard_normal((2, q.shape[-2], 8)).astype(np.float32)
    return dict(logits=xfref.factorized_random_logits(r1, r2, q.shape[-2]))


def _kernels(q: Array, k: Array, v: Array, rng: np.random.Generator) -> dict:
    d = q.shape[-1]
    key_kernel, value_kernel = rng.normal(0, (3 * d) ** -0.5, (2, 3, d, d))
    return dict(key_kernel=key_kernel, value_kernel=value_kernel)


def _random_features(q: Array, k: Array, v: Array, rng: np.random.Generator) -> dict:
    return dict(projection=xfref.favor_projection(rng, 256, q.shape[-1]))


def _by_distance(q: Array, k: Array, v: Array, rng: np.random.Generator) -> dict:
    """Projected sinusoids for all distances that a segment meets, and the two biases of a head."""
    heads, _, d = q.shape
    waves = xfref.sinusoidal_positions(3 * SEGMENT, heads * d)
    keys = waves @ rng.normal(0, (heads * d) ** -0.5, (heads * d, heads * d))
    content_bias, position_bias = rng.standard_normal((2, heads, d))
    return dict(relative_keys=np.moveaxis(keys.reshape(-1, heads, d), 1, 0), content_bias=content_bias,
                position_bias=position_bias)


def _segments(n: int) -> Iterator[tuple[int, int, int]]:
    """Where the memory of each segment begins, where the segment does, and where it ends."""
    for start in range(0, n, SEGMENT):
        yield max(start - SEGMENT, 0), start, min(start + SEGMENT, n)


def _recurrent(function: Callable, q: Array, k: Array, v: Array, *, relative_keys: Array,
               **biases: Array) -> Array:
    """One segment after the other, with the one before it as memory."""
    return np.concatenate([
        function(q[:, start:stop], k[:, first:stop], v[:, first:stop],
                 relative_keys=relative_keys[:, :stop - first], **biases)
        for first, start, stop in _segments(q.shape[-2])], axis=-2)


def _compressing(function: Callable, q: Array, k: Array, v: Array, *, relative_keys: Array,
                 **biases: Array) -> Array:
    """One segment after the other, with one as memory and the means of what is older."""
    whole = q.shape[-2] // RATE * RATE
    older = [xfref.compress_mean(x[:, :whole], RATE) for x in (k, v)]
    parts = []
    for first, start, stop in _segments(q.shape[-2]):
        means = slice(max(first // RATE - SEGMENT, 0), first // RATE)
        parts.append(function(
            q[:, start:stop], k[:, start:stop], v[:, start:stop],
            memory=(k[:, first:start], v[:, first:start]), compressed=tuple(x[:, means] for x in older),
            relative_keys=relative_keys[:, :means.stop - means.start + stop - first], **biases))
    return np.concatenate(parts, axis=-2)


_BOTH_DIRECTIONS = (  # the exact row first: the others are compared with its result
    Variant("attention", "attention", "", "n^2 d"),
    Variant("block_local", "block_local", "block 64", "n b d", lambda q, k, v, rng: dict(block=64),
            pattern=lambda n, head, *, block: patterns.same_block(n, block)),
    Variant("sliding_window", "sliding_window", "128 to each side", "n w d",
            lambda q, k, v, rng: dict(left=128, right=128),
            pattern=lambda n, head, *, left, right: patterns.window(n, left=left, right=right)),
    Variant("random_tokens", "random_tokens", "64 keys each", "n r d",
            lambda q, k, v, rng: dict(indices=rng.integers(0, k.shape[-2], (q.shape[-2], 64))),
            pattern=lambda n, head, *, indices: patterns.scattered(n, indices)),
    Variant("star_ring", "star_ring", "first step", "n d", _ring),
    Variant("longformer", "longformer", "window 512, 1 global", "n w d",
            lambda q, k, v, rng: dict(window=512, global_tokens=[0]),
            pattern=lambda n, head, *, window, global_tokens:
                patterns.window(n, left=window // 2, right=window // 2) | patterns.hubs(n, global_tokens)),
    Variant("etc", "etc", "radius 84, 64 global", "n w d", _global_stream),
    Variant("bigbird", "bigbird", "block 64, 3 random", "n b d", _random_blocks, pattern=_bigbird_pattern),
    Variant("image_2d", "image_2d", "blocks 8x8, flange 8", "n b d", lambda q, k, v, rng: dict(
        shape=_grid(q.shape[-2]), block=(8, 8), flange=(8, 8), causal=False)),
    Variant("axial", "axial", "rows of 4 sqrt(n)", "n^1.5 d",
            lambda q, k, v, rng: dict(shape=_grid(q.shape[-2], 4), axis=1),
            pattern=lambda n, head, *, shape, axis: patterns.same_block(n, shape[axis])),
    Variant("shaw", "shaw", "clipped at 16", "n^2 d", _tables,
            linear=lambda arguments, width: arguments | dict(value_table=None)),
    Variant("reformer", "reformer", f"{ROUNDS} rounds, chunk {CHUNK}", "n b d", _rotations, decide=_hashed,
            call=lambda function, q, k, v, **arguments: function(q, v, **arguments)),
    Variant("routing", "routing", "sqrt(n) clusters", "n^1.5 d", _centroids, decide=_clustered),
    Variant("sinkhorn", "sinkhorn", "block 2 sqrt(n)", "n^1.5 d", _sort_logits, decide=_sorted),
    Variant("sinkhorn_cut", "sinkhorn_cut", "block 2 sqrt(n), 4", "n^1.5 d",
            lambda q, k, v, rng: _sort_logits(q, k, v, rng) | dict(keep=4), decide=_sorted),
    Variant("linformer", "linformer", "256 slots", "n r d", _slots),
    Variant("synthesizer", "synthesizer", "random logits, rank 8", "n^2 d", _random_logits,
            call=lambda function, q, k, v, **arguments: function(v, **arguments)),
    # the weight of a slot is shared alike by the three positions that it is made of
    Variant("memory_compressed", "memory_compressed", "stride 3", "n^2 d", _kernels,
            linear=lambda arguments, width: arguments | dict(
                value_kernel=np.broadcast_to(np.eye(width) / 3, (3, width, width)))),
    Variant("linear_transformer", "linear_transformer", "", "n d^2"),
    Variant("performer", "performer", "256 features", "n r d", _random_features),
)
_CAUSAL = (
    Variant("attention-causal", "attention", "", "n^2 d", lambda q, k, v, rng: dict(causal=True)),
    Variant("sparse_strided", "sparse_strided", "stride sqrt(n)", "n^1.5 d",
            lambda q, k, v, rng: dict(stride=_root(q.shape[-2])),
            pattern=lambda n, head, *, stride: patterns.past(n) & (
                patterns.window(n, left=stride - 1, right=0) | patterns.strided(n, stride))),
    Variant("sparse_fixed", "sparse_fixed", "stride 2 sqrt(n), 8", "n^1.5 d",
            lambda q, k, v, rng: dict(stride=_root(q.shape[-2], 2), summary=8),
            pattern=lambda n, head, *, stride, summary: patterns.past(n) & (
                patterns.same_block(n, stride) | patterns.summaries(n, stride, summary))),
    Variant("image_1d", "image_1d", "block 256, memory 256", "n b d",
            lambda q, k, v, rng: dict(block=256, memory=256),
            # a memory as long as a block is the block before
            pattern=lambda n, head, *, block, memory: patterns.same_block(n, block, 1) & patterns.past(n)),
    Variant("adaptive_span", "adaptive_span", "spans 8 to 512", "n w d",
            lambda q, k, v, rng: dict(span=np.geomspace(8, 512, len(q))[:, None], ramp=32)),
    Variant("linear_transformer-causal", "linear_transformer", "", "n d^2",
            lambda q, k, v, rng: dict(causal=True)),
    Variant("performer-causal", "performer", "256 features", "n r d",
            lambda q, k, v, rng: _random_features(q, k, v, rng) | dict(causal=True)),
    Variant("transformer_xl", "transformer_xl", "segments 512", "n w d", _by_distance, call=_recurrent),
    Variant("compressive_transformer", "compressive_transformer", "segments 512, rate 4", "n w d",
            _by_distance, call=_compressing),
)
VARIANTS = (*_BOTH_DIRECTIONS, *(variant._replace(exact="attention-causal") for variant in _CAUSAL))
