"""Reformer: tokens are sorted by a hash of their direction, and attend to their neighbours in that order.

Reformer: The Efficient Transformer. Kitaev, Kaiser, Levskaya. 2020. arXiv:2001.04451, Section 2 (Eq. 2 to 6)
and Appendix A (Eq. 11 to 16). The reversible block of Section 3 is in `xfref.transformer`.

Differs: a query sees all keys of its window, in released code too; the paper hides those of other buckets
(Eq. 4 and 6), as `across_buckets=False` does. The penalty of 10^5 on a token's own position (Eq. 16) is taken
to its limit: a token sees itself only if it sees nothing else. A key found in several rounds counts once,
by the weights 1 / N_ij of Eq. 13, which released code leaves out. Nothing lies before the first chunk (Eq.
11); released code goes on there with the last one. Scores are scaled by d**-0.5, which Eq. 2 to 16 omit.
"""

import numpy as np

from xfref.core import (
    attention,
    check_array,
    check_key_mask,
    count,
    integers,
    leading,
    parameter,
    visible,
)


def lsh_buckets(x: np.ndarray, rotations: np.ndarray) -> np.ndarray:
    """The bucket of each vector in each round: the direction it is closest to, of b / 2 and their opposites.

    h(x) = argmax([x R; -x R])

    (...,n,d),(lead...,d,R,b/2) -> (...,R,n) integers 0..b-1. `rotations` holds a matrix for each round, see
    `lsh_rotations`. Of equal products the first counts. The length of a vector plays no part.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O(n d R b).

    >>> lsh_buckets(np.array([[1.0, 0.0], [0.0, -2.0]]), np.eye(2)[:, None])
    array([[0, 3]])
    """
    check_array("x", x, least=2)
    rotations = parameter("rotations", rotations, x.dtype, own=(x.shape[-1], None, None), lead=x.shape[:-2])
    if 0 in rotations.shape[-2:]:
        raise ValueError(f"rotations needs at least 1 round and 1 direction, got the shape {rotations.shape}")
    along = x[..., None, :, :] @ rotations.swapaxes(-2, -3)  # (...,R,n,b/2)
    return np.argmax(np.concatenate([along, -along], axis=-1), axis=-1)  # Section 2


def reformer(qk: np.ndarray, v: np.ndarray, *, buckets: np.ndarray, chunk: int, before: int = 1,
             after: int = 0, across_buckets: bool = True, causal: bool = False,
             key_mask: np.ndarray | None = None, scale: float | None = None) -> np.ndarray:
    """Attention among tokens of like direction, from one array that is both queries and keys.

    out_i = attention(qk_i, qk / |qk|, v) over the union of the R rounds' sets, s being the order in a round:
            { j : -before <= floor(s_j / chunk) - floor(s_i / chunk) <= after }

    (...,n,d),(...,n,e) -> (...,n,e). `buckets` (lead..., R, n), see `lsh_buckets`, orders the tokens in each
    of R rounds: by bucket, then by position. The order is cut into chunks of `chunk` tokens; the last one may
    be shorter. A query sees its chunk and `before` and `after` chunks beside it, its own position only if it
    sees nothing else; with `across_buckets=False`, only the keys of its own bucket. A token that `key_mask`
    hides keeps its place in the order. The paper sets chunk = 2 n / (number of buckets), often 128, and comes
    near full attention with R = 8.

    `causal` hides later keys. Who shares a chunk still depends on the buckets of later tokens: a row may
    change as the sequence grows.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O(R n chunk (1 + before + after) (d + e)); here O(n^2 (d + e)).

    >>> v = np.array([[1.0], [2.0], [3.0], [4.0]])
    >>> reformer(np.ones((4, 2)), v, buckets=np.array([[0, 1, 0, 1]]), chunk=2, before=0)
    array([[3.],
           [4.],
           [1.],
           [2.]])
    """
    check_array("qk", qk, least=2)
    check_array("v", v, least=2, dtype=qk.dtype, like="qk")
    (n, d), lead = qk.shape[-2:], leading(qk, v, names="qk and v")
    if v.shape[-2] != n or d == 0:
        raise ValueError(f"qk and v need the same length, and qk a width of at least 1, "
                         f"got n = {n} and m = {v.shape[-2]}, d = {d}")
    if integers("buckets", buckets, (None, n), lead).shape[-2] == 0:
        raise ValueError("buckets needs at least 1 round, got 0")
    chunk, before, after = count("chunk", chunk), count("before", before, 0), count("after", after, 0)
    check_key_mask(key_mask, qk, lead)
    place = np.argsort(np.argsort(buckets, axis=-1, kind="stable"), axis=-1)  # s_i, per round
    near = np.zeros((*buckets.shape[:-2], n, n), bool)
    for r in range(buckets.shape[-2]):
        own, bucket = place[..., r, :] // chunk, buckets[..., r, :]
        apart = own[..., None, :] - own[..., :, None]
        window = (-before <= apart) & (apart <= after)  # Eq. 11
        if not across_buckets:
            window &= bucket[..., None, :] == bucket[..., :, None]  # Eq. 4
        near |= window  # Eq. 6
    itself = np.eye(n, dtype=bool)
    others = visible(qk, qk, v, mask=near & ~itself, key_mask=key_mask, causal=causal)
    alone = ~others.any(axis=-1, keepdims=True)
    keys = _directions(qk)
    return attention(qk, keys, v, mask=others | (alone & itself), key_mask=key_mask, scale=scale)  # Eq. 12


def lsh_rotations(rng: np.random.Generator, d: int, rounds: int, buckets: int) -> np.ndarray:
    """Random directions for `lsh_buckets`: standard normal, `buckets` / 2 of them in each round.

    -> (d,rounds,buckets/2) float64.

    Raises: TypeError or ValueError unless all are integers of at least 1 and `buckets` is even.
    Cost: O(d rounds buckets).

    >>> lsh_rotations(np.random.default_rng(0), 4, 2, 6).shape
    (4, 2, 3)
    """
    if count("buckets", buckets) % 2:
        raise ValueError(f"buckets needs to be even (directions and their opposites), got {buckets}")
    return rng.standard_normal((count("d", d), count("rounds", rounds), buckets // 2))


def _directions(x: np.ndarray) -> np.ndarray:
    """Rows of length 1; a row of zeros stays."""
    top = np.abs(x).max(axis=-1, keepdims=True)
    x = x / np.where(top == 0, 1, top)  # so that no square over- or underflows
    return x / np.maximum(np.sqrt(np.sum(x * x, axis=-1, keepdims=True)), 1)

