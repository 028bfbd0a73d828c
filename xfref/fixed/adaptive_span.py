"""Adaptive attention span: each head learns how far back it looks, and what lies beyond is never computed.

Adaptive Attention Span in Transformers. Sukhbaatar, Grave, Bojanowski, Joulin. 2019. arXiv:1905.07799,
Section 2.1 (attention to the past, position vectors by distance), Section 2.2 (soft mask, penalty, dynamic
span).

Differs: the scores are scaled by d**-0.5, position term included, as in the released code. That code counts
distances from 0 where the paper counts from 1, so a span z of it is z + 1 here; it masks after a softmax over
all keys and divides again, with 1e-8 added to the sum; and where history is missing it attends to zeros.
"""

import numpy as np

from xfref.core import attention, check_array, leading, lengths, number, parameter, scale_or_default


def adaptive_span(q: np.ndarray, k: np.ndarray, v: np.ndarray, *, span: float | np.ndarray, ramp: float,
                  position_keys: np.ndarray | None = None, key_mask: np.ndarray | None = None,
                  scale: float | None = None) -> np.ndarray:
    """Attention to the tokens before the query, with weights that fall linearly to zero beyond the span.

    out_i = sum_j m(p_i - j) exp(s_ij) v_j / sum_j m(p_i - j) exp(s_ij),  over j < p_i,  p_i = i + m - n
    m(x) = min(max((ramp + span - x) / ramp, 0), 1);   s_ij = scale * q_i . (k_j + position_keys[p_i - j])

    (...,n,d),(...,m,d),(...,m,e) -> (...,n,e) with m >= n. A token is no key of its own query, so the first
    row of a sequence is zero. `span` and `ramp` are in positions, whole or not; `span` is a number, or
    (lead..., 1) for one per head, or (lead..., n) for one per token (see `dynamic_span`). Row x of
    `position_keys` (lead..., S + 1, d) belongs to distance x, row 0 to none; keys further back than S, the
    longest span that a model may learn, are hidden. The paper has S up to 8192 and ramp = 32.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O(n (span + ramp) (d + e)) for each head's span; here O(n m (d + e)).

    >>> v = np.array([[8.0], [2.0], [5.0], [7.0]])
    >>> adaptive_span(np.zeros((4, 1)), np.zeros((4, 1)), v, span=1, ramp=2)  # weights 1, 1/2, 0, ...
    array([[0.],
           [8.],
           [4.],
           [4.]])
    """
    n, m = lengths(q, k, v)
    if m < n:
        raise ValueError(f"this variant needs at least as many keys as queries, got n = {n} and m = {m}")
    lead, row = leading(q, k, v), np.arange(n)[:, None]
    span, ramp = _spans(span, q.dtype, n, lead), q.dtype.type(number("ramp", ramp, 0, above=True))
    distance = row + m - n - np.arange(m)
    weight = np.clip((ramp + span[..., None] - distance.astype(q.dtype)) / ramp, 0, 1)  # m(x)
    seen = (distance >= 1) & (weight > 0)
    bias = np.log(np.where(seen, weight, 1))  # m exp(s) = exp(s + log m)
    if position_keys is not None:
        position_keys = parameter("position_keys", position_keys, q.dtype, own=(None, q.shape[-1]), lead=lead)
        longest = position_keys.shape[-2] - 1
        if longest < 0:
            raise ValueError("position_keys needs at least 1 row, that of distance 0, got 0")
        by_distance = scale_or_default(scale, q) * (q @ position_keys.swapaxes(-1, -2))  # (...,n,S+1)
        bias = bias + by_distance[..., row, distance.clip(0, longest)]
        seen = seen & (distance <= longest)
    return attention(q, k, v, mask=seen, bias=bias, key_mask=key_mask, scale=scale)


def dynamic_span(x: np.ndarray, weight: np.ndarray, bias: float | np.ndarray, max_span: float) -> np.ndarray:
    """A span for every token, from what the token is.

    z_t = max_span * sigmoid(weight . x_t + bias)

    (...,n,w),(lead...,w),(lead...) -> (...,n), the `span` of `adaptive_span`. The leading axes of `weight`
    broadcast against those of x, and those of `bias` to those of `weight`: with heads, x is (B,1,n,w),
    `weight` (H,w), `bias` (H) or a number.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O(n w) per leading entry.

    >>> dynamic_span(np.array([[0.0], [1.0]]), np.array([np.log(3.0)]), 0.0, max_span=8)
    array([4., 6.])
    """
    check_array("x", x, least=2)
    lead = np.shape(weight)[:-1]
    weight = parameter("weight", weight, x.dtype, own=(x.shape[-1],), lead=lead)
    bias = parameter("bias", _array("bias", bias), x.dtype, own=(), lead=lead)
    try:
        np.broadcast_shapes(lead, x.shape[:-2])
    except ValueError:
        raise ValueError(f"weight needs leading axes that broadcast against those of x, {x.shape[:-2]}, "
                         f"got the shape {weight.shape}") from None
    logit = (x @ weight[..., None])[..., 0] + bias[..., None]
    sigmoid = np.exp(-np.logaddexp(0, -logit))  # 1 / (1 + exp(-logit)), without overflow
    return x.dtype.type(number("max_span", max_span, 0, above=True)) * sigmoid


def span_penalty(span: float | np.ndarray, coefficient: float) -> np.floating:
    """What a layer adds to the loss so that its spans stay short: the mean span times a coefficient.

    (coefficient / M) sum_h z_h  over the M heads of the layer

    (...) -> a number; a dynamic span is averaged over the tokens too. The paper has a coefficient of 2e-6,
    and of 5e-7 where spans may reach 8192.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O(size).

    >>> float(span_penalty(np.array([[10.0], [30.0]]), coefficient=0.5))
    10.0
    """
    span = _array("span", span)
    check_array("span", span)
    if span.size == 0:
        raise ValueError(f"span needs at least one entry, got the shape {span.shape}")
    return span.dtype.type(number("coefficient", coefficient)) * span.mean()


def _spans(span: float | np.ndarray, dtype: np.dtype, n: int, lead: tuple[int, ...]) -> np.ndarray:
    """The spans as an array (lead..., 1) or (lead..., n)."""
    span = parameter("span", _array("span", span), dtype, own=(n,), lead=lead, broadcast=True)
    wrong = ~((span >= 0) & (span < np.inf))
    if wrong.any():
        raise ValueError(f"span needs finite numbers of at least 0, got {span[wrong][0]}")
    return np.atleast_1d(span)


def _array(name: str, x: object) -> object:
    """A number as an array without axes; anything else as it is."""
    return np.array(number(name, x)) if np.isscalar(x) else x
