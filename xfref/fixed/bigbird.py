"""Big Bird: blocks of tokens see their neighbours, the first and the last block, and a few random blocks.

Big Bird: Transformers for Longer Sequences. Zaheer, Guruganesh, Dubey, Ainslie, Alberti, Ontanon, Pham,
Ravula, Wang, Yang, Ahmed. 2020. arXiv:2007.14062, Section 2 (Eq. AT, BigBird-itc), on blocks as in App. D.

Differs: without the residual and the sum over heads of Eq. AT, which belong to the layer around it. Global
are the first and the last block, as in the released code. A key that several parts choose counts once, as in
Eq. AT; released code counts it once for each. The last block may be short. BigBird-etc has the global tokens
of `etc`.
"""

import numpy as np

from xfref.core import attention, check_shape, describe, leading, lengths
from xfref.core import count as checked
from xfref.patterns import blocks as block_pattern
from xfref.patterns import hubs, indices_in, same_block


def bigbird(q: np.ndarray, k: np.ndarray, v: np.ndarray, *, block: int, random_blocks: np.ndarray,
            key_mask: np.ndarray | None = None, scale: float | None = None) -> np.ndarray:
    """Attention within three blocks around the query, with two global blocks and with random blocks.

    out_i = softmax(scale * q_i k_N(i)^T) v_N(i);   for a query in block t, N(i) holds the blocks
    t - 1, t, t + 1, the first, the last and random_blocks[t]; all of them if t is the first or the last

    (...,n,d),(...,n,d),(...,n,e) -> (...,n,e). `block` is in tokens, the last block what remains.
    `random_blocks` (lead..., ceil(n / block), r) are numbers of blocks, see `bigbird_random_blocks`. Its
    first and last row are not used, r may be 0, and a block named twice counts once. The paper has r = 3.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O(n block (5 + r) (d + e)); here O(n^2 (d + e)).

    >>> v = np.array([[0.0], [0.0], [0.0], [0.0], [6.0], [0.0]])
    >>> table = np.array([[0], [4], [0], [0], [0], [0]])
    >>> bigbird(np.zeros((6, 1)), np.zeros((6, 1)), v, block=1, random_blocks=table)[1:3]
    array([[1.2],
           [0. ]])
    """
    n, _ = lengths(q, k, v, equal=True)
    own = np.arange(n) // checked("block", block)
    number = -(-n // block)
    table = _table(random_blocks, number, leading(q, k, v))
    ends = np.flatnonzero((own == 0) | (own == number - 1))
    seen = same_block(n, block, 1, 1) | hubs(n, ends) | block_pattern(table, block, n)  # j in N(i)
    return attention(q, k, v, mask=seen, key_mask=key_mask, scale=scale)  # Eq. AT


def bigbird_random_blocks(rng: np.random.Generator, blocks: int, count: int,
                          heads: int | None = None) -> np.ndarray:
    """For each block `count` random blocks that it would not see anyway, for each head anew.

    -> (blocks,count) ints, or (heads,blocks,count). Drawn without replacement from the blocks that are
    neither global nor next to the row's own. Where there are too few, and in the first and last row, the rest
    is the row's own block, which adds nothing. At 4096 tokens released code draws from the first 1024 alone.

    Raises: TypeError or ValueError unless blocks, heads >= 1 and count >= 0 are integers.
    Cost: O(heads blocks^2).

    >>> bigbird_random_blocks(np.random.default_rng(0), 6, 2)
    array([[0, 0],
           [3, 4],
           [4, 2],
           [1, 3],
           [1, 2],
           [5, 5]])
    """
    blocks, count = checked("blocks", blocks), checked("count", count, 0)
    lead = () if heads is None else (checked("heads", heads),)
    table = np.broadcast_to(np.arange(blocks)[:, None], (*lead, blocks, count)).copy()
    for head in np.ndindex(lead):
        for row in range(1, blocks - 1):
            others = [t for t in range(1, blocks - 1) if abs(t - row) > 1]
            drawn = rng.permutation(others)[:count]
            table[head][row, :len(drawn)] = drawn
    return table


def _table(random_blocks: np.ndarray, number: int, lead: tuple[int, ...]) -> np.ndarray:
    """A copy of the table, in which the rows that are not used name block 0."""
    if not isinstance(random_blocks, np.ndarray) or not np.issubdtype(random_blocks.dtype, np.integer):
        raise TypeError(f"random_blocks needs an array of integers, got {describe(random_blocks)}")
    check_shape("random_blocks", random_blocks.shape, (number, None), lead)
    table = random_blocks.astype(np.intp)
    table[..., :1, :] = table[..., -1:, :] = 0
    return indices_in("random_blocks", table, number)
