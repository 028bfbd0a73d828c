"""Sparse Transformer, fast: the two parts of a pattern apart, each over keys that lie side by side."""

import functools

import numpy as np

from xfaccel import patterns
from xfaccel.arrays import check_key_mask, count, counts, distinct, leading, lengths
from xfaccel.core import attention, attention_into, attention_lse
from xfaccel.engine import tiles
from xfaccel.engine.softmax import attend

Array = np.ndarray


def sparse_strided(q: Array, k: Array, v: Array, *, stride: int, part: str = "merged", causal: bool = True,
                   key_mask: Array | None = None, scale: float | None = None) -> Array:
    """Attention to the last `stride` keys and to every `stride`-th key before them.

    (...,n,d),(...,m,d),(...,m,e) -> (...,n,e). Follows `xfref.sparse_strided` (Child et al. 2019, Section
    4.3): tokens of equal remainder mod `stride` form the tiles of the strided part, so that its hops are
    neighbours; a merged head adds a band, which shares only the query's own position with them.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O(n (stride + m / stride) (d + e)) time.
    Memory: threads * tile(d, e) + heads * n * size + 12 * n; a part alone, as in `sliding_window`.
    """
    n, m = lengths(q, k, v)
    stride, far = count("stride", stride), tiles.WIDE
    if _checked(part) == "summary":
        bands = [(-far, 0 if causal else far, stride)]
    else:
        bands = [(1 - stride, 0 if causal else stride - 1, 1)]
    if part == "merged":
        bands += [(-far, -1, stride)] if causal else [(-far, -1, stride), (1, far, stride)]
    result = None
    for band in bands:
        result = attend(q, k, v, tiles.band(n, m, *band), into=result, key_mask=key_mask, scale=scale,
                        with_lse=len(bands) > 1)
    return result[0]


def sparse_fixed(q: Array, k: Array, v: Array, *, stride: int, summary: int, sub_block: int | Array = 0,
                 part: str = "merged", causal: bool = True, key_mask: Array | None = None,
                 scale: float | None = None) -> Array:
    """Attention to the query's own block of `stride` keys and to the summary of every block.

    (...,n,d),(...,m,d),(...,m,e) -> (...,n,e). Follows `xfref.sparse_fixed` (Child et al. 2019, Section 4.3):
    the summary cells are copied side by side; a merged head adds to the own block the cells of the other
    blocks alone, so that no key counts twice.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O(n (stride + summary m / stride) (d + e)) time.
    Memory: 8 * planes * n + max(made(planes * n),
        threads * tile(d, e) + heads * (n + summary * m / stride * (d + e)) * size).
    """
    n, m = lengths(q, k, v)
    lead, causal = leading(q, k, v), bool(causal)
    first = patterns.first_cell(stride, summary, counts("sub_block", sub_block, lead, least=0))
    if _checked(part) != "summary":
        near = attention_lse(q, k, v, mask=_own_block(n, m, stride, causal), key_mask=key_mask, scale=scale)
        if part == "local":
            return near[0]
    if key_mask is not None:
        key_mask = check_key_mask(key_mask, k, lead)
        key_mask = key_mask.reshape(*(1,) * (k.ndim - 1 - key_mask.ndim), *key_mask.shape, 1)
    first = tuple(first.tolist()) if first.ndim else int(first)
    cells, seen = _summaries(n, m, stride, summary, first, part == "merged", causal)
    k, v, key_mask = (None if x is None else _taken(x, cells) for x in (k, v, key_mask))
    options = dict(mask=seen, key_mask=None if key_mask is None else key_mask[..., 0], scale=scale)
    if part == "summary":
        return attention(q, k, v, **options)
    attention_into(near, q, k, v, **options)
    return near[0]


@functools.lru_cache(64)
def _own_block(n: int, m: int, stride: int, causal: bool) -> patterns.Pattern:
    pattern = patterns.same_block(n, stride, m=m)
    return pattern & patterns.past(n, m) if causal else pattern


@functools.lru_cache(64)
def _summaries(n: int, m: int, stride: int, summary: int, first: int | tuple[int, ...], merged: bool,
               causal: bool) -> tuple[Array, patterns.Pattern]:
    """The summary cells (..., cells), and which of them each query sees: if `merged`, not its own block's."""
    first = np.array(first, np.int64)[..., None]
    block = stride * np.arange(-(-m // stride))[:, None]
    cells = first[..., None] + block + np.arange(summary)
    cells = cells.reshape(*first.shape[:-1], block.size * summary)

    def up_to(position):
        """How many cells lie at a position or before it."""
        inside = np.clip(position % stride - first + 1, 0, summary)
        return np.maximum(position // stride * summary + inside, 0)

    position = np.arange(n) + m - n
    own, every = position // stride * stride, up_to(np.full(n, m - 1))
    if merged:
        ranges = [(0 * every, up_to(own - 1)), (np.minimum(up_to(own + stride - 1), every), every)]
        ranges = ranges[:1] if causal else ranges
    else:
        ranges = [(0 * every, up_to(position) if causal else every)]
    starts, stops = (np.stack(edge, axis=-1) for edge in zip(*ranges, strict=True))
    # the cells that a short last block lacks come last, where no range reaches
    return np.minimum(cells, m - 1), patterns.of_ranges(starts, stops, cells.shape[-1])


def _taken(x: Array, cells: Array) -> Array:
    """The rows `cells` of x (..., m, width); one list for all heads, or one for each."""
    x = distinct(x)
    if cells.ndim == 1:
        return x.take(cells, axis=-2)
    x = np.broadcast_to(x, (*x.shape[:-3], len(cells), *x.shape[-2:]))
    return x[..., np.arange(len(cells))[:, None], cells, :]


def _checked(part: str) -> str:
    if part not in ("local", "summary", "merged"):
        raise ValueError(f"part needs 'local', 'summary' or 'merged', got {part!r}")
    return part
