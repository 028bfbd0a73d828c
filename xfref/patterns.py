"""Which keys a query sees: every sparse pattern of the book as a boolean array, combined with | and &.

Big Bird (Zaheer et al. 2020, arXiv:2007.14062, Section 2) names the parts: window, global and random tokens;
Sparse Transformers (Child et al. 2019, arXiv:1904.10509, Section 4.3) add strides and summaries.

Each function returns (n, m), or (H, n, m) where a parameter was given per head: True = the query sees the
key. Query i sits at position i + m - n. They are definitions: O(n m) memory whatever the pattern saves.
"""

from collections.abc import Sequence

import numpy as np

from xfref.core import check_mask, count, counts, describe

Array = np.ndarray


def past(n: int, m: int | None = None) -> Array:
    """Every key up to the query's own position: j <= i + m - n.

    -> (n,m). Raises TypeError or ValueError if a length is no integer >= 0.

    >>> past(2, 3).astype(int)
    array([[1, 1, 0],
           [1, 1, 1]])
    """
    query, key = _positions(n, m)
    return key <= query


def window(n: int, m: int | None = None, *, left: int, right: int, dilation: int | Array = 1) -> Array:
    """Keys at most `left` hops before and `right` hops after the query, a hop being `dilation` positions.

    -> (n,m), or (H,n,m) for one dilation per head. Raises TypeError or ValueError naming the argument.

    >>> window(4, left=1, right=0, dilation=2).astype(int)
    array([[1, 0, 0, 0],
           [0, 1, 0, 0],
           [1, 0, 1, 0],
           [0, 1, 0, 1]])
    """
    left, right = count("left", left, 0), count("right", right, 0)
    hop = np.asarray(counts("dilation", dilation, np.shape(dilation)))[..., None, None]
    query, key = _positions(n, m)
    offset = key - query
    return (offset % hop == 0) & (-left * hop <= offset) & (offset <= right * hop)


def same_block(n: int, block: int, before: int = 0, after: int = 0, m: int | None = None) -> Array:
    """Keys in the query's own block of `block` positions, or in the `before` and `after` blocks beside it.

    -> (n,m). Raises TypeError or ValueError naming the argument.

    >>> same_block(4, 2).astype(int)
    array([[1, 1, 0, 0],
           [1, 1, 0, 0],
           [0, 0, 1, 1],
           [0, 0, 1, 1]])
    """
    block, before, after = count("block", block), count("before", before, 0), count("after", after, 0)
    query, key = _positions(n, m)
    apart = key // block - query // block
    return (-before <= apart) & (apart <= after)


def hubs(n: int, positions: Sequence[int] | Array) -> Array:
    """Global tokens: they see every key and every query sees them.

    -> (n,n). `positions` are ints in 0..n-1. Raises TypeError or ValueError naming the argument.

    >>> hubs(3, [1]).astype(int)
    array([[0, 1, 0],
           [1, 1, 1],
           [0, 1, 0]])
    """
    hub = np.zeros(count("n", n, 0), bool)
    hub[indices_in("positions", positions, n)] = True
    return hub[:, None] | hub


def strided(n: int, stride: int, m: int | None = None) -> Array:
    """Keys whose distance from the query is a multiple of `stride`, before and after it.

    -> (n,m). Child et al., Section 4.3, A^(2), without its causal half. Raises TypeError or ValueError.

    >>> strided(3, 2).astype(int)
    array([[1, 0, 1],
           [0, 1, 0],
           [1, 0, 1]])
    """
    query, key = _positions(n, m)
    return (key - query) % count("stride", stride) == 0


def summaries(n: int, stride: int, summary: int, sub_block: int | Array = 0, m: int | None = None) -> Array:
    """The `summary` cells at the end of every block of `stride` positions; a later sub-block lies further in.

    -> (n,m), or (H,n,m) for one sub-block per head: keys j with stride - (sub_block + 1) * summary <=
    j mod stride < stride - sub_block * summary. Child et al., Section 4.3, "fixed" A^(2), without its causal
    half. Raises TypeError or ValueError if an argument is no fitting integer.

    >>> summaries(4, 2, 1)[0].astype(int)
    array([0, 1, 0, 1])
    """
    stride, summary = count("stride", stride), count("summary", summary)
    sub_block = np.asarray(counts("sub_block", sub_block, np.shape(sub_block), least=0))[..., None, None]
    if np.any((sub_block + 1) * summary > stride):
        raise ValueError(f"(sub_block + 1) * summary needs to be at most stride = {stride}, "
                         f"got sub_block = {sub_block.max()} and summary = {summary}")
    query, key = _positions(n, m)
    cell = key % stride
    seen = (stride - (sub_block + 1) * summary <= cell) & (cell < stride - sub_block * summary)
    return np.broadcast_to(seen, (*seen.shape[:-2], len(query), len(key))).copy()


def blocks(table: Array, block: int, n: int) -> Array:
    """Whole blocks of keys for whole blocks of queries: query block t sees the key blocks `table[..., t, :]`.

    (...,ceil(n/block),r) ints -> (...,n,n). A block listed twice counts once; -1 is an empty place.
    Raises TypeError or ValueError if `table` holds no fitting block numbers.

    >>> blocks(np.array([[1], [0]]), 2, 4).astype(int)
    array([[0, 0, 1, 1],
           [0, 0, 1, 1],
           [1, 1, 0, 0],
           [1, 1, 0, 0]])
    """
    number = -(-count("n", n, 0) // count("block", block))
    seen = _marked("table", table, number, number)
    own = np.arange(n) // block
    return seen[..., own[:, None], own]


def scattered(n: int, indices: Array, m: int | None = None) -> Array:
    """A list of keys for each query; a key listed twice counts once; -1 is an empty place.

    (...,n,r) ints -> (...,n,m). Raises TypeError or ValueError if `indices` holds no fitting key numbers.

    >>> scattered(2, np.array([[1, 1], [0, 1]])).astype(int)
    array([[0, 1],
           [1, 1]])
    """
    return _marked("indices", indices, count("n", n, 0), n if m is None else count("m", m, 0))


def indices_in(name: str, x: object, size: int) -> Array:
    """`x` as an int array with every entry in 0..size-1. Raises TypeError or ValueError naming it."""
    values = np.asarray(x)
    if values.size == 0:
        return values.astype(np.intp)
    if not np.issubdtype(values.dtype, np.integer):
        raise TypeError(f"{name} needs integers, got {describe(x)}")
    if values.min() < 0 or values.max() >= size:
        raise ValueError(f"{name} needs integers in 0..{size - 1}, got {values.min()}..{values.max()}")
    return values


def token_mask(name: str, tokens: object, size: int, lead: tuple[int, ...]) -> Array:
    """A set of positions, given as ints or as a boolean (lead..., size), as the boolean array."""
    if isinstance(tokens, np.ndarray) and tokens.dtype == bool:
        return check_mask(name, tokens, (size,), lead)
    chosen = np.zeros(size, bool)
    chosen[indices_in(name, tokens, size)] = True
    return chosen


def _positions(n: int, m: int | None) -> tuple[Array, Array]:
    n = count("n", n, 0)
    m = n if m is None else count("m", m, 0)
    return np.arange(n)[:, None] + m - n, np.arange(m)


def _marked(name: str, table: object, rows: int, columns: int) -> Array:
    """(...,rows,columns) booleans, True at the columns listed in (...,rows,r)."""
    if not isinstance(table, np.ndarray) or not np.issubdtype(table.dtype, np.integer):
        raise TypeError(f"{name} needs an array of integers, got {describe(table)}")
    if table.ndim < 2 or table.shape[-2] != rows:
        raise ValueError(f"{name} needs the shape (..., {rows}, r), got {table.shape}")
    if table.size and (table.min() < -1 or table.max() >= columns):
        raise ValueError(f"{name} needs integers in -1..{columns - 1}, got {table.min()}..{table.max()}")
    # an extra last column takes the empty places and is cut off
    seen = np.zeros((*table.shape[:-1], columns + 1), bool)
    np.put_along_axis(seen, table % (columns + 1), True, axis=-1)
    return seen[..., :columns]
