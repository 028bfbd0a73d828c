"""Longformer, fast: band and global keys in one tile list."""

import functools
from collections.abc import Sequence

import numpy as np

from xfaccel import patterns
from xfaccel.arrays import companion, count, counts, leading, lengths
from xfaccel.core import attention

Array = np.ndarray


def longformer(q: Array, k: Array, v: Array, *, window: int, dilation: int | Array = 1,
               global_tokens: Sequence[int] | Array = (), global_q: Array | None = None,
               global_k: Array | None = None, global_v: Array | None = None, causal: bool = False,
               key_mask: Array | None = None, scale: float | None = None) -> Array:
    """Windowed attention plus global tokens with projections of their own (Beltagy et al. 2020, Section 3.1).

    (...,n,d),(...,m,d),(...,m,e) -> (...,n,e). Follows `xfref.longformer`: band and global keys are one tile
    list, so a key that is both counts once; the rows of global tokens are computed apart and written over.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O((n window + (n + m) g) (d + e)) time for g global tokens.
    Memory: max(threads * tile(d, e), made(planes * n * (1 + g))) + 50 * planes * n
        + heads * g * (d + e) * size.
    """
    n, m = lengths(q, k, v)
    lead = leading(q, k, v)
    if count("window", window, 0) % 2:
        raise ValueError(f"window needs to be even (half on each side), got {window}")
    dilation = counts("dilation", dilation, lead)
    is_global = patterns.token_mask("global_tokens", global_tokens, m, lead)
    global_q, global_k, global_v = (
        own if x is None else companion(f"global_{name}", x, own.dtype, own.shape[-2:], lead)
        for name, x, own in (("q", global_q, q), ("k", global_k, k), ("v", global_v, v)))
    hops = dilation if isinstance(dilation, int) else tuple(dilation.tolist())
    pattern = _longformer(n, m, window // 2, hops, bool(causal), is_global.shape, is_global.tobytes())
    out = attention(q, k, v, mask=pattern, key_mask=key_mask, scale=scale)
    _write_global_rows(out, is_global, global_q, global_k, global_v, causal, key_mask, scale)
    return out


def _write_global_rows(out: Array, is_global: Array, q: Array, k: Array, v: Array, causal: bool,
                       key_mask: Array | None, scale: float | None) -> None:
    """Overwrite the rows of `out` that belong to global tokens with attention over all keys."""
    n, m, lead, axes = q.shape[-2], k.shape[-2], out.shape[:-2], is_global.shape[:-1]
    wide = [np.broadcast_to(x, (*lead, *x.shape[-2:])) for x in (q, k, v)]
    seen = None if key_mask is None else np.broadcast_to(key_mask, (*lead, m))
    for entry in np.ndindex(axes):
        position = np.flatnonzero(is_global[entry])
        position = position[position >= m - n]  # with more keys than queries, the first keys have no row
        if not position.size:
            continue
        # an axis of length 1 in the mask stands for all entries of that axis
        here = (slice(None),) * (len(lead) - len(axes)) + tuple(
            slice(None) if length == 1 else place for place, length in zip(entry, axes, strict=True))
        rows = position - (m - n)
        own_q, own_k, own_v = (x[here] for x in wide)
        # these rows are no neighbours: row by row, the keys up to its position
        past = patterns.of_ranges(np.zeros((len(rows), 1), np.int64), position[:, None] + 1, m)
        mask = past if causal else None
        out[here][..., rows, :] = attention(own_q[..., rows, :], own_k, own_v, mask=mask, scale=scale,
                                            key_mask=None if seen is None else seen[here])


@functools.lru_cache(64)
def _longformer(n: int, m: int, side: int, dilation: int | tuple[int, ...], causal: bool,
                shape: tuple[int, ...], is_global: bytes) -> patterns.Pattern:
    hops = dilation if isinstance(dilation, int) else np.array(dilation)
    hubs = np.frombuffer(is_global, bool).reshape(shape)
    pattern = patterns.window(n, m, left=side, right=side, dilation=hops) | patterns.columns(hubs, n)
    return pattern & patterns.past(n, m) if causal else pattern
