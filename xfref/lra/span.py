"""Required attention span: how far from a query the keys are that it attends to, on average.

"Long Range Arena: A Benchmark for Efficient Transformers", Tay et al., 2020, arXiv:2011.04006, section 2.3.
The paper takes it from a trained model and averages over its attention modules and over validation samples;
here one number per leading axis is returned and the mean over heads, layers and samples is the caller's.

Which form for which attention, all of them exact:

required_span           weights that are at hand
required_span_softmax   softmax over all keys or over a pattern, from two results of `attention_lse`
required_span_linear    kernel attention, by running sums
required_span_of        whatever is linear in its values, from what it makes of the columns of the identity

Two marks to read a span by: attention to oneself has span 0, uniform attention `uniform_span`. The paper
prints neither; its bar for retrieval, about 1350 at 4000 tokens, is that of uniform attention.

Differs: the paper fixes no rule for padding. A hidden key has weight zero and so takes no part; a query that
`query_mask` (boolean, n or leading axes and n, True = counts) leaves out and a row that sums to zero are left
out of the mean; without any other row the span is 0. With a CLS token in front, report both: with its row,
and without, query_mask[..., 0] = False.
Differs: each row is divided by its sum, so weights before normalisation give the same span.
Differs: the weights need not be made; the paper has no such form.
"""

from collections.abc import Callable

import numpy as np

from xfref.core import attention_lse, check_mask, count


def uniform_span(n: int) -> float:
    """The span of uniform attention of n queries to n keys: (n^2 - 1) / (3 n), about a third of the length.

    >>> uniform_span(4), required_span(np.ones((4, 4))).item()
    (1.25, 1.25)
    """
    return (n**2 - 1) / (3 * n)


def required_span(weights: np.ndarray, query_mask: np.ndarray | None = None) -> np.ndarray:
    """Mean over queries of the distance to the attended keys: sum_j A[i, j] |p_i - j|, rows of A of sum 1.

    (...,n,m)->(...), float64. Query i stands at p_i = i + m - n. Raises ValueError for fewer than two axes
    and for a negative weight, TypeError for what is no real number. Cost: O(n m).

    >>> required_span(np.eye(8)).item()
    0.0
    """
    weights = _real("weights", weights)
    if (weights < 0).any():
        raise ValueError("weights must not be negative: for a signed row (Linformer's) take numpy.abs of it")
    reach = np.einsum("...ij,ij->...i", weights, _distance(*weights.shape[-2:]))
    return _mean_over_queries(reach, weights.sum(axis=-1), query_mask)


def required_span_softmax(q: np.ndarray, k: np.ndarray, query_mask: np.ndarray | None = None, *,
                          causal: bool = False, attend: Callable[..., tuple] = attention_lse) -> np.ndarray:
    """`required_span` of softmax attention, from its results alone.

    (...,n,d),(...,m,d)->(...), float64. With values that are the positions of the keys the result is the mean
    position c of what a query attends to, and a of what it attends to among the keys up to its own position
    p; the two denominators give the share s of these. Then sum_j A[i, j] |p - j| = c - p + 2 s (p - a).
    `attend` is called as `attention_lse(q, k, positions, causal=...)`: bind a pattern or a mask of keys with
    functools.partial. That of `xfaccel` takes the memory of one pair of results, at any length.

    Raises ValueError for fewer than two axes, TypeError for what is no real number, and what `attend` does.
    Cost: that of `attend`, twice; in float32 an error of about 1e-6 m.

    >>> q, k = np.random.default_rng(0).standard_normal((2, 5, 3))
    >>> weights = np.exp(q @ k.T / np.sqrt(3))
    >>> np.allclose(required_span_softmax(q, k), required_span(weights))
    True
    """
    _real("q", q), _real("k", k)
    n, m = q.shape[-2], k.shape[-2]
    positions, own = np.arange(m, dtype=k.dtype)[:, None], np.arange(n) + (m - n)

    def results(causal):
        means, lse = attend(q, k, positions, causal=causal)
        return means[..., 0].astype(np.float64), lse.astype(np.float64)

    before, lse_before = results(True)
    mean, lse = (before, lse_before) if causal else results(False)
    seen = np.isfinite(lse) | np.isnan(lse)  # a NaN is to be seen in the result
    share = np.exp(lse_before - np.where(seen, lse, 0))
    return _mean_over_queries(mean - own + 2 * share * (own - before), seen.astype(np.float64), query_mask)


def required_span_linear(q_features: np.ndarray, k_features: np.ndarray, causal: bool = False,
                         query_mask: np.ndarray | None = None) -> np.ndarray:
    """`required_span` of kernel attention, A[i, j] = q_features[i] . k_features[j], without making A.

    (...,n,r),(...,m,r)->(...), float64; leading axes broadcast. With `causal` only keys j <= p_i count. Zero
    the features of padding. Signed features (Performer's trigonometric ones) are taken as they are, so a row
    of A may be negative in places. Raises ValueError for fewer than two axes, different r or leading axes
    that do not broadcast, TypeError for what is no real number. Cost: O((n + m) r) time and memory.

    >>> q, k = np.random.default_rng(0).random((2, 5, 3))
    >>> np.allclose(required_span_linear(q, k), required_span(q @ k.T))
    True
    """
    q_features, k_features = _real("q_features", q_features), _real("k_features", k_features)
    (n, r), (m, width) = q_features.shape[-2:], k_features.shape[-2:]
    if r != width:
        raise ValueError(f"q_features has width {r}, k_features {width}")
    try:
        np.broadcast_shapes(q_features.shape[:-2], k_features.shape[:-2])
    except ValueError:
        raise ValueError(
            f"leading axes do not broadcast: q_features {q_features.shape}, k_features {k_features.shape}"
        ) from None
    if n > m:  # keys of weight zero before the first: now every query stands on a key
        k_features = np.concatenate([np.zeros((*k_features.shape[:-2], n - m, r)), k_features], axis=-2)
    rows = slice(max(n, m) - n, None)

    def dot(sums):
        return np.einsum("...ir,...ir->...i", q_features, sums[..., rows, :])

    # sum_{j<=p} (p - j) k_j adds k_j once for each t with j <= t < p, so it is the running sum of the running
    # sums before p: sums of like terms, where p sum k_j - sum j k_j would lose digits.
    past = np.cumsum(k_features, axis=-2)
    reach, total = dot(np.cumsum(past, axis=-2) - past), dot(past)
    if not causal:
        future = np.flip(np.cumsum(np.flip(k_features, axis=-2), axis=-2), axis=-2)
        future_reach = np.flip(np.cumsum(np.flip(future, axis=-2), axis=-2), axis=-2) - future
        reach, total = reach + dot(future_reach), total + dot(future - k_features)
    return _mean_over_queries(reach, total, query_mask)


def required_span_of(attend: Callable[[np.ndarray], np.ndarray], m: int,
                     query_mask: np.ndarray | None = None, *, dtype: np.dtype | type = np.float64,
                     block: int = 64) -> np.ndarray:
    """`required_span` of any attention whose result is linear in its values, of which there are m.

    `attend` is given values (m, block) of type `dtype` and returns (..., n, block); bind queries, keys and
    all else before. Given columns of the identity it returns the weights of as many keys, whatever they are
    made by: buckets, clusters, sorted blocks, projections, a mean that stands for many tokens. What is added
    to a result beside the values (value_table of `shaw`) has to be left out.

    (m,block)->(...), float64. Negative weights, as Linformer's may be, count by their size; they are no
    probabilities, and neither is this mean. Cost: that of `attend` for values m wide; m / block calls, each
    with the memory of one result. Raises what `attend` raises.

    >>> from xfref import sinkhorn
    >>> q, k = np.random.default_rng(0).standard_normal((2, 6, 4))
    >>> swap = np.array([[0.0, 1.0], [1.0, 0.0]])
    >>> span = required_span_of(lambda v: sinkhorn(q, k, v, sort=swap, block=3), 6, block=2)
    >>> weights = sinkhorn(q, k, np.eye(6), sort=swap, block=3)
    >>> np.allclose(span, required_span(weights))
    True
    """
    reach = total = 0.0
    for start in range(0, count("m", m), count("block", block)):
        width = min(block, m - start)
        weights = np.abs(_real("the result", attend(np.eye(m, width, -start, dtype))))
        distance = _distance(weights.shape[-2], m, slice(start, start + width))
        reach = reach + np.einsum("...ij,ij->...i", weights, distance)
        total = total + weights.sum(axis=-1)
    return _mean_over_queries(reach, total, query_mask)


def _distance(n, m, keys=slice(None)):
    """|p_i - j| of n queries and the m keys, or some of them."""
    return np.abs(np.arange(n)[:, None] + (m - n) - np.arange(m)[keys])


def _real(name, array):
    array = np.asarray(array)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name} must hold real numbers, got dtype {array.dtype}")
    if array.ndim < 2:
        raise ValueError(f"{name} must have at least two axes, got shape {array.shape}")
    return array.astype(np.float64, copy=False)


def _mean_over_queries(reach, total, query_mask):
    counted = total != 0
    if query_mask is not None:
        counted = counted & check_mask("query_mask", query_mask, counted.shape[-1:], counted.shape[:-1])
    spans = np.divide(reach, total, out=np.zeros(counted.shape), where=counted)
    return spans.sum(axis=-1) / np.maximum(counted.sum(axis=-1), 1)
