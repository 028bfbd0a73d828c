"""Softmax attention: the definition that every other page of this book restricts, factors or approximates.

Attention Is All You Need. Vaswani, Shazeer, Parmar, Uszkoreit, Jones, Gomez, Kaiser, Polosukhin. 2017.
arXiv:1706.03762, Section 3.2.1, Eq. 1; the normalisation layer is Layer Normalization, Ba, Kiros, Hinton,
2016, arXiv:1607.06450, Eq. 4; rows as integers of 8 bits are after Q8BERT: Quantized 8Bit BERT, Zafrir,
Boudoukh, Izsak, Wasserblat, 2019, arXiv:1910.06188.

Differs: a query that sees no key gets zeros, where the equation would divide zero by zero. With fewer
queries than keys the last query sits on the last key (query i has position i + m - n), as with cached keys.
Q8BERT has one scale for a whole array and multiplies in integers; here every row has its own, so that a large
key costs the others no digits and a new one changes none before it, and products are of floats.

Letters used in the whole book: `n` queries, `m` keys, `d` key width, `e` value width, `...` leading axes.
"""

import math
from collections.abc import Sequence
from numbers import Integral, Real

import numpy as np

Array = np.ndarray
Codes = tuple[Array, Array]  # rows as integers and the scale of each, from `quantize_rows`


def softmax(scores: Array, axis: int = -1) -> Array:
    """Exponentials of the scores, divided by their sum.

    p_j = exp(s_j) / sum_j' exp(s_j')

    (...) -> (...). A score of -inf gets probability 0; a row of nothing but -inf is all zeros.

    Raises: TypeError if `scores` is not a float array.
    Cost: O(size).

    >>> softmax(np.array([0.0, np.log(3.0), -np.inf]))
    array([0.25, 0.75, 0.  ])
    """
    check_array("scores", scores)
    weights, total, _ = _exponentials(scores, axis)
    return _divide(weights, total)


def layer_norm(x: Array, gain: Array, bias: Array, eps: float = 1e-5) -> Array:
    """Each row shifted to mean 0, divided by its standard deviation, then scaled and shifted as learned.

    y = gain * (x - mean) / sqrt(variance + eps) + bias

    (...,w),(w),(w) -> (...,w). The variance is the biased one (divided by w).

    Raises: TypeError or ValueError naming the array whose type or shape does not fit.
    Cost: O(size).

    >>> layer_norm(np.array([1.0, 3.0]), np.ones(2), np.zeros(2), eps=0.0)
    array([-1.,  1.])
    """
    check_array("x", x, least=1)
    gain = parameter("gain", gain, x.dtype, own=(x.shape[-1],), lead=x.shape[:-1])
    bias = parameter("bias", bias, x.dtype, own=(x.shape[-1],), lead=x.shape[:-1])
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = np.mean(centred**2, axis=-1, keepdims=True)
    return gain * centred / np.sqrt(variance + x.dtype.type(eps)) + bias  # Ba et al., Eq. 4


def attention(q: Array, k: Array | Codes, v: Array | Codes, *, mask: Array | None = None,
              key_mask: Array | None = None, bias: Array | None = None, causal: bool = False,
              scale: float | None = None) -> Array:
    """The mean of the values, weighted by how well each key fits the query.

    out = softmax(scale * q k^T + bias) v

    (...,n,d),(...,m,d),(...,m,e) -> (...,n,e). `mask`, boolean and broadcastable to (...,n,m), says which
    keys a query sees; `bias`, likewise, is added to the scaled scores (-inf hides); `key_mask`, (m,) or
    k.ndim - 1 axes, is True where a key may be attended; `causal` hides the keys after a query's own position
    i + m - n; `scale` defaults to d**-0.5. k and v may both be pairs of `quantize_rows`, for arrays of these
    shapes: attended to is what they stand for, codes * scale.

    Raises: TypeError for anything but equal float arrays or pairs, ValueError for shapes that do not fit.
    Cost: O(n m (d + e)) time, O(n m) memory.

    >>> q, k, v = np.zeros((1, 2)), np.zeros((4, 2)), np.arange(4.0)[:, None]
    >>> attention(q, k, v, key_mask=np.array([True, True, True, False]))
    array([[1.]])
    """
    return attention_lse(q, k, v, mask=mask, key_mask=key_mask, bias=bias, causal=causal, scale=scale)[0]


def attention_lse(q: Array, k: Array | Codes, v: Array | Codes, *, mask: Array | None = None,
                  key_mask: Array | None = None, bias: Array | None = None, causal: bool = False,
                  scale: float | None = None) -> tuple[Array, Array]:
    """`attention`, and the logarithm of each row's denominator, which is what merging two results needs.

    lse_i = log sum_j exp(scale * q_i . k_j + bias_ij)

    (...,n,d),(...,m,d),(...,m,e) -> (...,n,e),(...,n). A query that sees no key has lse -inf.
    Parameters, errors and cost as for `attention`.

    >>> out, lse = attention_lse(np.zeros((1, 2)), np.zeros((4, 2)), np.ones((4, 1)))
    >>> bool(lse[0] == np.log(4.0))
    True
    """
    if isinstance(k, tuple) or isinstance(v, tuple):
        check_array("q", q, least=2)
        k, v = restored("k", k, q.dtype), restored("v", v, q.dtype)
    n, m = lengths(q, k, v)
    lead = leading(q, k, v)
    check_key_mask(key_mask, k, lead)
    k, v = hide_keys(k, key_mask), hide_keys(v, key_mask)
    scores = scale_or_default(scale, q) * (q @ k.swapaxes(-1, -2))  # (...,n,m)
    if bias is not None:
        scores = scores + parameter("bias", bias, q.dtype, own=(n, m), lead=lead, broadcast=True)
    scores = np.where(visible(q, k, v, mask=mask, key_mask=key_mask, causal=causal), scores, -np.inf)
    weights, total, top = _exponentials(scores, axis=-1)
    out = _divide(weights @ v, total)  # Eq. 1
    with np.errstate(divide="ignore"):
        lse = (np.log(total) + top)[..., 0]
    return np.broadcast_to(out, (*lead, n, v.shape[-1])).copy(), np.broadcast_to(lse, (*lead, n)).copy()


def merge(out_a: Array, lse_a: Array, out_b: Array, lse_b: Array) -> tuple[Array, Array]:
    """Attention over the union of two disjoint sets of keys, from the two results.

    lse = log(exp(lse_a) + exp(lse_b));   out = exp(lse_a - lse) out_a + exp(lse_b - lse) out_b

    (...,n,e),(...,n),(...,n,e),(...,n) -> (...,n,e),(...,n). A side with lse -inf contributes nothing.

    Raises: TypeError or ValueError naming the array whose type or shape does not fit.
    Cost: O(n e).

    >>> out, lse = merge(np.array([[2.0]]), np.array([0.0]), np.array([[4.0]]), np.array([0.0]))
    >>> out
    array([[3.]])
    """
    for name, out, lse in (("a", out_a, lse_a), ("b", out_b, lse_b)):
        check_array(f"out_{name}", out, least=2, dtype=getattr(out_a, "dtype", None))
        check_array(f"lse_{name}", lse, least=1, dtype=out_a.dtype)
        if out.shape != out_a.shape or lse.shape != out.shape[:-1]:
            raise ValueError(f"out_{name} and lse_{name} need the shapes {out_a.shape} and "
                             f"{out_a.shape[:-1]}, got {out.shape} and {lse.shape}")
    top = _finite(np.maximum(lse_a, lse_b))
    weight_a, weight_b = np.exp(lse_a - top), np.exp(lse_b - top)
    total = weight_a + weight_b
    with np.errstate(divide="ignore"):
        lse = np.log(total) + top
    out = _divide(weight_a[..., None] * out_a + weight_b[..., None] * out_b, total[..., None])
    return out, lse


def quantize_rows(x: Array) -> Codes:
    """Each row as integers of 8 bits and the scale that they are multiples of.

    scale_i = max_c |x_ic| / 127;   codes_ic = round(x_ic / scale_i)

    (...,m,w) -> (...,m,w),(...,m). Codes are int8, -127 to 127, rounded to the nearest, halves to even. They
    stand for codes * scale, which is off by at most scale / 2. A row of zeros has scale 0. Scales are of the
    type of x, or float32 if that has 16 bits.

    Raises: TypeError or ValueError if `x` is no array of finite floats with at least 2 axes.
    Cost: O(m w).

    >>> codes, scale = quantize_rows(np.array([[63.5, -12.7, 0.1], [0.0, 0.0, 0.0]]))
    >>> codes.tolist(), scale.tolist()
    ([[127, -25, 0], [0, 0, 0]], [0.5, 0.0])
    """
    check_array("x", x, least=2)
    scale = np.abs(x).max(axis=-1, initial=0) / x.dtype.type(127)
    if not np.isfinite(scale).all():
        raise ValueError("x needs finite numbers, got a NaN or an infinity")
    codes = np.rint(x / np.where(scale == 0, x.dtype.type(1), scale)[..., None])
    # beyond 127 only by a subnormal scale, which has too few digits
    return np.clip(codes, -127, 127).astype(np.int8), scale


def relative_attention(q: Array, k: Array, v: Array, *, relative_keys: Array,
                       content_bias: Array | None = None, position_bias: Array | None = None,
                       mask: Array | None = None, key_mask: Array | None = None,
                       scale: float | None = None) -> Array:
    """Causal attention whose scores also weigh how far a key lies behind the query, in place of positions.

    s_ij = scale * ((q_i + a) . k_j + (q_i + b) . r_t),  t = i + m - n - j >= 0;   out = softmax(s) v

    (...,n,d),(...,m,d),(...,m,e) -> (...,n,e) with m >= n. `relative_keys` r (lead..., m, d) holds a key for
    each distance t; `content_bias` a and `position_bias` b (lead..., d) are queries that all positions share,
    zero by default. `mask`, `key_mask` and `scale` as for `attention`.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O(n m (d + e)) time, O(n m) memory.

    >>> q, k, v = np.ones((1, 1)), np.zeros((2, 1)), np.array([[0.0], [8.0]])
    >>> relative_attention(q, k, v, relative_keys=np.log([[3.0], [1.0]]))
    array([[6.]])
    """
    n, m = lengths(q, k, v, more_keys=True)
    lead, d = leading(q, k, v), q.shape[-1]
    relative_keys = parameter("relative_keys", relative_keys, q.dtype, own=(m, d), lead=lead)
    content_bias, position_bias = (
        parameter(name, np.zeros(d) if x is None else x, q.dtype, own=(d,), lead=lead)[..., None, :]
        for name, x in (("content_bias", content_bias), ("position_bias", position_bias)))
    position = relative_shift((q + position_bias) @ relative_keys.swapaxes(-1, -2))
    return attention(q + content_bias, k, v, bias=scale_or_default(scale, q) * position, mask=mask,
                     key_mask=key_mask, causal=True, scale=scale)


def relative_shift(scores: Array) -> Array:
    """Scores listed by distance, put where the keys at these distances are.

    shifted_ij = scores_it,  t = i + m - n - j

    (...,n,m) -> (...,n,m). Keys after the query have no distance: distance 0 stands there, to be masked.

    >>> relative_shift(np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]))
    array([[2., 1., 1.],
           [6., 5., 4.]])
    """
    n, m = scores.shape[-2:]
    query = np.arange(n)[:, None]
    distance = query + m - n - np.arange(m)
    return scores[..., query, np.maximum(distance, 0)]


def kernel_attention(q_features: Array, k_features: Array, v: Array, *, k_exponent: Array | None = None,
                     key_mask: Array | None = None, causal: bool = False) -> Array:
    """Attention whose weights are products of features instead of exponentials of scores.

    out_i = sum_j (f(q_i) . f(k_j)) v_j / sum_j f(q_i) . f(k_j)

    (...,n,r),(...,m,r),(...,m,e) -> (...,n,e). `k_exponent` (...,m), if given, multiplies the features of key
    j by exp(k_exponent_j). The largest exponent that a row sees is taken out of its numerator and
    denominator, so nothing overflows and no row depends on a key that it does not see. A row whose weights
    sum to zero is zero.

    Raises: ValueError for shapes that do not fit.
    Cost: O(n m (r + e)) time, O(n m) memory; the papers regroup the products to O((n + m) r e).

    >>> kernel_attention(np.ones((1, 1)), np.array([[1.0], [3.0]]), np.array([[0.0], [4.0]]))
    array([[3.]])
    """
    k_features, v = hide_keys(k_features, key_mask), hide_keys(v, key_mask)
    seen = visible(q_features, k_features, v, key_mask=key_mask, causal=causal)
    weights = q_features @ k_features.swapaxes(-1, -2)
    if k_exponent is not None:
        exponents = np.where(seen, k_exponent[..., None, :], -np.inf)
        weights = weights * _exponentials(exponents, axis=-1)[0]
    weights = np.where(seen, weights, 0)
    return _divide(weights @ v, weights.sum(axis=-1, keepdims=True))


def read_state(q_features: Array, s: Array, z: Array) -> Array:
    """What a query reads from the running sums of a kernel: f(q)^T s / (f(q) . z), zero if that is 0 / 0.

    (...,f),(...,f,e),(...,f) -> (...,e)
    """
    total = np.sum(q_features * z, axis=-1, keepdims=True)
    return _divide((q_features[..., None, :] @ s)[..., 0, :], total)


def check_state(state: object, parts: int, features: int, q: Array, v: Array) -> tuple[Array, ...]:
    """The running sums (..., f, e), (..., f), ... of a step function: a tuple of `parts` arrays.

    Raises: TypeError or ValueError unless `state` is such a tuple and fits q, v and the number of features.
    """
    if not isinstance(state, tuple) or len(state) != parts:
        raise TypeError(f"state needs None or the tuple of {parts} arrays that a step returned, "
                        f"got {describe(state)}")
    own = (features, v.shape[-1])
    for place, x in enumerate(state):
        check_array(f"state[{place}]", x, dtype=q.dtype)
        wanted = (*leading(q, v), *(own if place == 0 else own[:1]))
        if x.shape != wanted:
            raise ValueError(f"state[{place}] needs the shape {wanted}, got {x.shape}")
    return state


def visible(q: Array, k: Array, v: Array, *, mask: Array | None = None, key_mask: Array | None = None,
            causal: bool = False) -> Array:
    """Which keys each query sees, all masks together: boolean, broadcastable to (...,n,m).

    Raises: TypeError or ValueError if `mask` does not fit; a key mask was checked before.
    Cost: O(n m).
    """
    n, m = q.shape[-2], k.shape[-2]
    seen = np.ones((n, m), bool)
    if mask is not None:
        seen = seen & check_mask("mask", mask, (n, m), leading(q, k, v))
    if causal:
        seen = seen & (np.arange(m) <= np.arange(n)[:, None] + m - n)
    if key_mask is not None:
        seen = seen & key_mask[..., None, :]
    return seen


def check_key_mask(key_mask: object, k: Array, lead: tuple[int, ...], name: str = "key_mask") -> None:
    """Raise TypeError or ValueError unless `key_mask` is None or boolean with (m,) or k.ndim - 1 axes."""
    if key_mask is None:
        return
    m = k.shape[-2]
    if type(key_mask) is not np.ndarray or key_mask.dtype != bool:
        raise TypeError(f"{name} needs a boolean array (True = attend), got {describe(key_mask)}")
    if key_mask.ndim not in (1, k.ndim - 1) or key_mask.shape[-1] != m:
        wanted = "(m,)" if k.ndim == 2 else f"(m,) or k.ndim - 1 = {k.ndim - 1} axes ending in m"
        raise ValueError(f"{name} needs {wanted} = {m}, got {key_mask.shape}; for one mask per batch entry "
                         f"beside heads, reshape (B, m) to (B, 1, m): {name}[:, None, :]")
    check_shape(name, key_mask.shape, (m,), lead)


def hide_keys(x: Array, key_mask: Array | None) -> Array:
    """`x` (...,m,w) with zeros in the rows that `key_mask` hides, whatever they held."""
    return x if key_mask is None else np.where(key_mask[..., None], x, x.dtype.type(0))


def restored(name: str, pair: object, dtype: np.dtype) -> Array:
    """The rows that a pair of `quantize_rows` stands for. Raises TypeError or ValueError naming its entry."""
    if not isinstance(pair, tuple) or len(pair) != 2:
        raise TypeError(f"{name} needs a pair (codes, scales), as the other of k and v is one, "
                        f"got {describe(pair)}")
    codes, scales = pair
    if type(codes) is not np.ndarray or codes.dtype != np.int8:
        raise TypeError(f"{name}[0] needs a numpy.ndarray of int8, got {describe(codes)}")
    if codes.ndim < 2:
        raise ValueError(f"{name}[0] needs at least 2 axes, got the shape {codes.shape}")
    return codes * parameter(f"{name}[1]", scales, dtype, own=codes.shape[:-1], lead=())[..., None]


def lengths(q: Array, k: Array, v: Array, *, equal: bool = False, more_keys: bool = False) -> tuple[int, int]:
    """The numbers of queries and keys, n and m, of three arrays that fit together.

    Raises: TypeError unless q, k and v are arrays of one float type; ValueError unless their shapes are
    (...,n,d), (...,m,d), (...,m,e) with leading axes that broadcast, n = m if `equal`, m >= n if `more_keys`.
    """
    for name, x in (("q", q), ("k", k), ("v", v)):
        check_array(name, x, least=2, dtype=getattr(q, "dtype", None))
    n, m = q.shape[-2], k.shape[-2]
    if q.shape[-1] != k.shape[-1]:
        raise ValueError(f"q and k need the same width, got {q.shape[-1]} and {k.shape[-1]}")
    if q.shape[-1] == 0:
        raise ValueError("q and k need a width of at least 1, got 0")
    if v.shape[-2] != m:
        raise ValueError(f"k and v need the same length, got {m} and {v.shape[-2]}")
    if equal and n != m:
        raise ValueError(f"this variant needs as many queries as keys, got n = {n} and m = {m}")
    if more_keys and m < n:
        raise ValueError(f"this variant needs at least as many keys as queries, got n = {n} and m = {m}")
    leading(q, k, v)
    return n, m


def joined(*stretches: Array) -> Array:
    """Arrays (...,length,width) one after the other along the sequence, their leading axes broadcast."""
    lead = leading(*stretches)
    return np.concatenate([np.broadcast_to(x, (*lead, *x.shape[-2:])) for x in stretches], axis=-2)


def leading(*arrays: Array, names: str = "q, k and v") -> tuple[int, ...]:
    """The common leading axes of arrays of shape (...,length,width). Raises ValueError if there are none."""
    try:
        return np.broadcast_shapes(*(x.shape[:-2] for x in arrays))
    except ValueError:
        raise ValueError(f"the leading axes of {names} do not broadcast: got the shapes "
                         + ", ".join(str(x.shape) for x in arrays)) from None


def scale_or_default(scale: float | None, q: Array, *, positive: bool = False) -> np.floating:
    """`scale`, or d**-0.5, in q's type. Raises TypeError or ValueError if it is no finite number."""
    if scale is None:
        return q.dtype.type(q.shape[-1]) ** q.dtype.type(-0.5)
    return q.dtype.type(number("scale", scale, *[0] * positive, above=positive))


def check_array(name: str, x: object, *, least: int = 0, dtype: np.dtype | None = None,
                like: str = "q") -> None:
    """Raise TypeError unless `x` is a float array (of `dtype`), ValueError if it has under `least` axes.

    `like` names the array whose type `dtype` is.
    """
    if type(x) is not np.ndarray:
        raise TypeError(f"{name} needs a numpy.ndarray of floats, got {describe(x)}; {_remedy(x)}")
    if x.dtype not in (np.float32, np.float64, np.longdouble) or not x.dtype.isnative:
        raise TypeError(f"{name} needs float32 or float64 in native byte order, got {x.dtype}; "
                        f"convert with {name}.astype(numpy.float32)")
    if dtype is not None and x.dtype != dtype:
        raise TypeError(f"{name} needs the dtype of {like}, {dtype}, got {x.dtype}; "
                        f"convert with {name}.astype({like}.dtype)")
    if x.ndim < least:
        raise ValueError(f"{name} needs at least {least} axes, got the shape {x.shape}")


def companion(name: str, x: object, dtype: np.dtype, own: Sequence[int], lead: tuple[int, ...]) -> Array:
    """Data beside q, k and v: (lead..., own...) in their type. Raises TypeError or ValueError naming it."""
    check_array(name, x, least=2, dtype=dtype)
    check_shape(name, x.shape, own, lead)
    return x


def parameter(name: str, x: object, dtype: np.dtype, *, own: Sequence[int | None],
              lead: tuple[int, ...], broadcast: bool = False) -> Array:
    """A parameter of shape (lead..., own...) cast to `dtype`; None in `own` accepts any length.

    With `broadcast`, own axes of length 1 fit too. Raises TypeError or ValueError naming the parameter.
    """
    if type(x) is not np.ndarray or not np.issubdtype(x.dtype, np.floating):
        raise TypeError(f"{name} needs a numpy.ndarray of floats, got {describe(x)}; {_remedy(x)}")
    check_shape(name, x.shape, own, lead, broadcast)
    return x.astype(dtype, copy=False)


def keys_and_values(name: str, pair: object, q: Array, v: Array,
                    lead: tuple[int, ...]) -> tuple[Array, Array]:
    """A pair of parameters (lead..., length, d) and (lead..., length, e), as further keys and values.

    Raises: TypeError or ValueError, naming the pair or its entry, unless they fit q and v.
    """
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise TypeError(f"{name} needs a pair of arrays (keys, values), got {describe(pair)}")
    keys = parameter(f"{name}[0]", pair[0], q.dtype, own=(None, q.shape[-1]), lead=lead)
    return keys, parameter(f"{name}[1]", pair[1], q.dtype, own=(keys.shape[-2], v.shape[-1]), lead=lead)


def check_mask(name: str, mask: object, own: Sequence[int | None], lead: tuple[int, ...]) -> Array:
    """A boolean array broadcastable to (lead..., own...). Raises TypeError or ValueError naming it."""
    if type(mask) is not np.ndarray or mask.dtype != bool:
        raise TypeError(f"{name} needs a boolean array (True = attend), got {describe(mask)}")
    check_shape(name, mask.shape, own, lead, broadcast=True)
    return mask


def integers(name: str, x: object, own: Sequence[int | None], lead: tuple[int, ...]) -> Array:
    """An array of integers >= 0, of shape (lead..., own...). Raises TypeError or ValueError naming it."""
    if type(x) is not np.ndarray or not np.issubdtype(x.dtype, np.integer):
        raise TypeError(f"{name} needs a numpy.ndarray of integers, got {describe(x)}")
    check_shape(name, x.shape, own, lead)
    if x.size and x.min() < 0:
        raise ValueError(f"{name} needs integers of at least 0, got {x.min()}")
    return x


def check_shape(name: str, shape: tuple[int, ...], own: Sequence[int | None], lead: tuple[int, ...],
                broadcast: bool = False) -> None:
    """Raise ValueError, naming the array, unless `shape` is (lead..., own...), `lead` up to broadcasting."""
    cut = max(len(shape) - len(own), 0)
    tail = shape[cut:]
    accepted = (len(tail) == len(own) or broadcast) and all(
        want is None or got == want or (broadcast and got == 1)
        for got, want in zip(reversed(tail), reversed(own), strict=False))
    try:
        accepted = accepted and np.broadcast_shapes(shape[:cut], lead) == lead
    except ValueError:
        accepted = False
    if not accepted:
        axes = ", ".join(["lead...", *("any" if want is None else str(want) for want in own)])
        raise ValueError(f"{name} needs the shape ({axes}) with lead broadcastable to {lead}, got {shape}")


def count(name: str, x: object, least: int = 1) -> int:
    """`x` as an int. Raises TypeError if it is no integer, ValueError if it is under `least`."""
    if isinstance(x, bool | np.bool_) or not isinstance(x, Integral):
        raise TypeError(f"{name} needs an integer, got {describe(x)}")
    if x < least:
        raise ValueError(f"{name} needs to be at least {least}, got {x}")
    return int(x)


def counts(name: str, x: object, lead: tuple[int, ...], least: int = 1) -> int | Array:
    """An int, or one int per entry of the last leading axis (per head). Raises as `count` does."""
    if np.ndim(x) == 0:
        return count(name, x[()] if isinstance(x, np.ndarray) else x, least)
    values = np.asarray(x)
    if not np.issubdtype(values.dtype, np.integer):
        raise TypeError(f"{name} needs an integer or one integer per head, got {describe(x)}")
    if lead[-1:] != values.shape:
        raise ValueError(f"{name} needs one integer, or one per entry of the last leading axis "
                         f"{lead[-1:]}, got the shape {values.shape}")
    if values.size and values.min() < least:
        raise ValueError(f"{name} needs to be at least {least}, got {values.min()}")
    return values


def extents(name: str, x: object, axes: int | None = None, least: int = 1) -> tuple[int, ...]:
    """`x` as a tuple of ints, one per axis of a grid. Raises TypeError or ValueError naming it."""
    if not isinstance(x, Sequence):
        raise TypeError(f"{name} needs a tuple of integers, one per axis, got {describe(x)}")
    if axes is not None and len(x) != axes:
        raise ValueError(f"{name} needs {axes} integers, one per axis, got {len(x)}")
    return tuple(count(name, length, least) for length in x)


def grid(shape: object, n: int, axes: int | None = None) -> tuple[int, ...]:
    """The shape of a grid of n positions. Raises TypeError or ValueError if it is none."""
    sides = extents("shape", shape, axes, least=0)
    if math.prod(sides) != n:
        raise ValueError(f"shape needs a product of n = {n}, got {sides} with {math.prod(sides)}")
    return sides


def number(name: str, x: object, low: float = -np.inf, high: float = np.inf, *, above: bool = False) -> float:
    """`x` as a float, low <= x <= high, or low < x if `above`. Raises TypeError or ValueError naming it."""
    if isinstance(x, bool | np.bool_) or not isinstance(x, Real):
        raise TypeError(f"{name} needs a number, got {describe(x)}")
    if not np.isfinite(x) or not low <= x <= high or (above and x == low):
        kind = "finite and positive" if above and low == 0 else "finite"
        bounds = [f"at least {low}"] * (low > -np.inf and not above) + [f"at most {high}"] * (high < np.inf)
        raise ValueError(f"{name} needs to be {', '.join([kind, *bounds])}, got {x}")
    return float(x)


def describe(x: object) -> str:
    """What `x` is, in a few words, for an error message."""
    kind = f"{type(x).__module__}.{type(x).__qualname__}".removeprefix("builtins.")
    if hasattr(x, "dtype"):
        return f"{kind} of {x.dtype}"
    return f"{kind} of length {len(x)}" if isinstance(x, list | tuple) else f"{kind} {x!r:.40}"


def _remedy(x: object) -> str:
    if isinstance(x, np.ma.MaskedArray):
        return "fill it with .filled(0) and pass its mask as key_mask"
    if isinstance(x, np.ndarray | list | tuple):
        return "convert with numpy.asarray(x, dtype=numpy.float32)"
    return "convert to NumPy first, for example with numpy.asarray or .numpy()"


def _exponentials(scores: Array, axis: int) -> tuple[Array, Array, Array]:
    """exp(scores - top), its sum and the row's largest score `top` (0 where that is not finite)."""
    top = _finite(scores.max(axis=axis, keepdims=True, initial=-np.inf))
    weights = np.exp(scores - top)
    return weights, weights.sum(axis=axis, keepdims=True), top


def _finite(x: Array) -> Array:
    """-inf replaced by 0: a row of -inf must give exp(-inf) = 0, not exp(-inf + inf) = NaN."""
    return np.where(np.isneginf(x), x.dtype.type(0), x)


def _divide(numerator: Array, denominator: Array) -> Array:
    """The quotient, and zero where the denominator is zero."""
    zero, one = denominator.dtype.type(0), denominator.dtype.type(1)
    empty = denominator == 0
    return np.where(empty, zero, numerator / np.where(empty, one, denominator))
