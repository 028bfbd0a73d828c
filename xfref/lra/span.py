"""Required attention span: how far from a query the keys are that it attends to, on average.

"Long Range Arena: A Benchmark for Efficient Transformers", Tay et al., 2020, arXiv:2011.04006, section 2.3.
The paper takes it from a trained model and averages over its attention modules and over validation samples;
here one number per leading axis is returned and the mean over heads, layers and samples is the caller's.

Two marks to read a span by: attention to oneself has span 0; uniform attention over n keys has
(n**2 - 1) / (3 n).

Differs: the paper fixes no rule for padding. A hidden key has weight zero and so takes no part; a row that
sums to zero (a padded query, a query that sees nothing) is left out of the mean; without any other row the
span is 0.
Differs: each row is divided by its sum, so weights before normalisation give the same span.
Differs: kernel attention has a form that never makes the weights; the paper has none.
"""

import numpy as np


def required_span(weights: np.ndarray) -> np.ndarray:
    """Mean over queries of the distance to the attended keys: sum_j A[i, j] |p_i - j|, rows of A of sum 1.

    (...,n,m)->(...), float64. Query i stands at p_i = i + m - n. Raises ValueError for fewer than two axes
    and for a negative weight, TypeError for what is no real number. Cost: O(n m).

    >>> required_span(np.eye(8)).item(), required_span(np.ones((8, 8))).item() == (8**2 - 1) / (3 * 8)
    (0.0, True)
    """
    weights = _real("weights", weights)
    if (weights < 0).any():
        raise ValueError("weights must not be negative: for a signed row (Linformer's) take numpy.abs of it")
    n, m = weights.shape[-2:]
    distance = np.abs(np.arange(n)[:, None] + (m - n) - np.arange(m))
    return _mean_over_queries(np.einsum("...ij,ij->...i", weights, distance), weights.sum(axis=-1))


def required_span_linear(q_features: np.ndarray, k_features: np.ndarray, causal: bool = False) -> np.ndarray:
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
    return _mean_over_queries(reach, total)


def _real(name, array):
    array = np.asarray(array)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name} must hold real numbers, got dtype {array.dtype}")
    if array.ndim < 2:
        raise ValueError(f"{name} must have at least two axes, got shape {array.shape}")
    return array.astype(np.float64, copy=False)


def _mean_over_queries(reach, total):
    counted = total != 0
    spans = np.divide(reach, total, out=np.zeros_like(reach), where=counted)
    return spans.sum(axis=-1) / np.maximum(counted.sum(axis=-1), 1)
