"""Block-local attention, fast: tiles cut at the borders of blocks."""

import functools

import numpy as np

from xfaccel import patterns
from xfaccel.arrays import count, lengths
from xfaccel.core import attention

Array = np.ndarray


def block_local(q: Array, k: Array, v: Array, *, block: int, before: int = 0, after: int = 0,
                causal: bool = False, key_mask: Array | None = None, scale: float | None = None) -> Array:
    """Attention within blocks of `block` positions, with `before` and `after` whole blocks beside them.

    (...,n,d),(...,m,d),(...,m,e) -> (...,n,e). Follows `xfref.block_local`: tiles of queries are cut at the
    borders of blocks, so that all lanes of a tile see the same keys.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O(n block (1 + before + after) (d + e)) time.
    Memory: max(threads * tile(d, e), made(n) if causal else 20 * n) + 4 * n.
    """
    n, m = lengths(q, k, v)
    block, before, after = count("block", block), count("before", before, 0), count("after", after, 0)
    pattern = _blocks(n, m, block, before, after, bool(causal))
    return attention(q, k, v, mask=pattern, key_mask=key_mask, scale=scale)


@functools.lru_cache(64)
def _blocks(n: int, m: int, block: int, before: int, after: int, causal: bool) -> patterns.Pattern:
    pattern = patterns.same_block(n, block, before, after, m)
    return pattern & patterns.past(n, m) if causal else pattern
