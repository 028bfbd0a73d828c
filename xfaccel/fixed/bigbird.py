"""Big Bird, fast: window, global and random blocks in one tile list."""

import functools

import numpy as np

from xfaccel import patterns
from xfaccel.arrays import check_shape, count, describe, leading, lengths
from xfaccel.core import attention

Array = np.ndarray


def bigbird(q: Array, k: Array, v: Array, *, block: int, random_blocks: Array, key_mask: Array | None = None,
            scale: float | None = None) -> Array:
    """Attention within three blocks around the query, with two global blocks and with random blocks.

    (...,n,d),(...,n,d),(...,n,e) -> (...,n,e). Follows `xfref.bigbird`: the blocks that a row sees are a few
    ranges of keys, merged, so that a block chosen twice counts once. The tile list of a table is kept.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O(n block (5 + r) (d + e)) time for r random blocks.
    Memory: max(threads * tile(d, e), 2**18 * (1 + r) + 2500 * planes * n / block - heads * n * e * size)
        + 8 * planes * n.
    """
    n, _ = lengths(q, k, v, equal=True)
    block = count("block", block)
    table = _table(random_blocks, -(-n // block), leading(q, k, v))
    pattern = _bigbird(n, block, table.shape, table.tobytes())
    return attention(q, k, v, mask=pattern, key_mask=key_mask, scale=scale)


@functools.lru_cache(64)
def _bigbird(n: int, block: int, shape: tuple[int, ...], table: bytes) -> patterns.Pattern:
    number = shape[-2]
    ends = {0, number - 1} if number else ()
    near = patterns.window(number, left=1, right=1) | patterns.hubs(number, list(ends))
    return patterns.enlarged(near | patterns.scattered(number, np.frombuffer(table, np.int64).reshape(shape)),
                             block, n)


def _table(random_blocks: Array, number: int, lead: tuple[int, ...]) -> Array:
    """A copy of the table, in which the rows that are not used name block 0."""
    if not isinstance(random_blocks, np.ndarray) or not np.issubdtype(random_blocks.dtype, np.integer):
        raise TypeError(f"random_blocks needs an array of integers, got {describe(random_blocks)}")
    check_shape("random_blocks", random_blocks.shape, (number, None), lead)
    table = random_blocks.astype(np.int64)
    table[..., :1, :] = table[..., -1:, :] = 0
    return patterns.indices_in("random_blocks", table, number)
