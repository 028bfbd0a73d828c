"""Features of attention in operations of CuPy, and the attention itself where the scan kernel does not do it.

Choromanski et al. 2020, arXiv:2009.14794; Hua et al. 2022, arXiv:2202.10447 (chunks). A feature is a factor
times the exponential of an exponent. The sums over keys are s (..., f, e) and z (..., f), divided by the
exponential of the largest exponent of each feature so far, top (..., f): no row depends on a key that it does
not see.
"""

import math
from typing import Any

import numpy as np

from xfaccel.arrays import namespace, shown, sum_dtype

Array = Any  # of CuPy
State = tuple[Array, Array, Array]
CHUNK = 128  # tokens whose weights are held at once


def of_rows(x: Array, *, kind: str, projection: Array, root: float) -> tuple[Array, Array | None]:
    """The features (..., n, f) of each row of `x` for the scan kernel, in the type of a state.

    They are still to be multiplied by 2 to an exponent (..., n), which is the same for all of a row, unless
    that is None.
    """
    factors, exponents = _made(x.astype(sum_dtype(x), copy=False), kind, projection, root)
    if kind == "relu":
        return factors, None
    top = exponents.max(axis=-1, keepdims=True)
    return factors * np.exp(exponents - top), top[..., 0] * math.log2(math.e)


def attend(q: Array, k: Array, v: Array, lead: tuple[int, ...], *, causal: bool, kind: str | None,
           projection: Array | None, root: float, key_mask: Array | None = None, state: State | None = None
           ) -> tuple[Array, State]:
    """The result (lead..., n, e), and the sums over all keys after those of `state`.

    (...,n,d),(...,m,d),(...,m,e), `key_mask` (..., m); all checked. The kinds are those of `xfref.performer`,
    and None is elu + 1. Numbers of 16 bits are computed in float32.
    """
    n, m, dtype = q.shape[-2], k.shape[-2], q.dtype
    q, k, v = (x.astype(sum_dtype(x), copy=False) for x in (q, k, v))
    if key_mask is not None:
        k, v = shown(k, key_mask), shown(v, key_mask)
    queries, (factors, exponents) = _made(q, kind, projection, root), _made(k, kind, projection, root)
    if key_mask is not None:
        exponents = np.where(key_mask[..., None], exponents, -np.inf)
    if state is None:
        state = _nothing(factors, v)
    before, blind = (max(m - n, 0), max(n - m, 0)) if causal else (m, 0)
    state = _added(state, *(x[..., :before, :] for x in (factors, exponents, v)))
    if not causal:
        mean = _mean(*_read(state, *queries)[:2]).astype(dtype, copy=False)
        return np.broadcast_to(mean, (*lead, n, v.shape[-1])), state
    out = namespace(v).zeros((*lead, n, v.shape[-1]), q.dtype)
    for first in range(before, m, CHUNK):
        stop = min(first + CHUNK, m)
        own = [x[..., first:stop, :] for x in (factors, exponents, v)]
        rows = slice(first + n - m, stop + n - m)
        out[..., rows, :] = _chunk(state, *(x[..., rows, :] for x in queries), *own)
        state = _added(state, *own)
    return out.astype(dtype, copy=False), state


def _made(x: Array, kind: str | None, projection: Array | None, root: float) -> tuple[Array, Array]:
    """Factors and exponents (..., f) of the features of each row."""
    if kind is None:
        factors = np.where(x > 0, x + 1, np.exp(np.minimum(x, 0)))
        return factors, np.zeros_like(factors)
    x = x * root
    along = x @ projection.swapaxes(-1, -2)
    if kind == "relu":
        return np.maximum(along, 0), np.zeros_like(along)
    half_square = (x * x).sum(axis=-1, keepdims=True) / 2
    if kind == "trigonometric":
        waves = np.concatenate([np.cos(along), np.sin(along)], axis=-1)
        return waves, np.broadcast_to(half_square, waves.shape)
    if kind == "hyperbolic":
        along = np.concatenate([along, -along], axis=-1)
    return np.ones_like(along), along - half_square


def _nothing(factors: Array, v: Array) -> State:
    """The sums over no keys."""
    sums = *np.broadcast_shapes(factors.shape[:-2], v.shape[:-2]), factors.shape[-1]
    xp, dtype = namespace(v), v.dtype
    return xp.zeros((*sums, v.shape[-1]), dtype), xp.zeros(sums, dtype), xp.full(sums, -np.inf, dtype)


def _added(state: State, factors: Array, exponents: Array, v: Array) -> State:
    if not v.shape[-2]:
        return state
    s, z, top = state
    new = np.maximum(top, exponents.max(axis=-2))
    reference = _finite(new)
    shrink = np.exp(top - reference)
    features = factors * np.exp(exponents - reference[..., None, :])
    s = s * shrink[..., None] + features.swapaxes(-1, -2) @ v
    return s, z * shrink + features.sum(axis=-2), new


def _read(state: State, factors: Array, exponents: Array) -> tuple[Array, Array, Array]:
    """Numerators (..., n, e), denominators and the exponent of both (..., n, 1), over the keys in `state`."""
    s, z, top = state
    exponents = exponents + top[..., None, :]
    most = exponents.max(axis=-1, keepdims=True)
    features = factors * np.exp(exponents - _finite(most))
    return features @ s, features @ z[..., None], most


def _chunk(state: State, q_factors: Array, q_exponents: Array, k_factors: Array, k_exponents: Array,
           v: Array) -> Array:
    """The result of c queries that see the keys in `state`, and of c more those that are not after them."""
    numerator, denominator, before = _read(state, q_factors, q_exponents)
    q_top, k_top = (x.max(axis=-1, keepdims=True) for x in (q_exponents, k_exponents))
    q, k = (factors * np.exp(exponents - _finite(top)) for factors, exponents, top in (
        (q_factors, q_exponents, q_top), (k_factors, k_exponents, k_top)))
    # a weight is the product of the features times the exponential of both exponents
    seen = namespace(v).tri(v.shape[-2], dtype=bool)
    exponents = np.where(seen, q_top + k_top.swapaxes(-1, -2), -np.inf)
    most = np.maximum(before, exponents.max(axis=-1, keepdims=True))
    weights = np.where(seen, q @ k.swapaxes(-1, -2), 0) * np.exp(exponents - _finite(most))
    shrink = np.exp(before - _finite(most))
    return _mean(numerator * shrink + weights @ v,
                 denominator * shrink + weights.sum(axis=-1, keepdims=True))


def _mean(numerator: Array, denominator: Array) -> Array:
    return np.where(denominator == 0, 0, numerator / np.where(denominator == 0, 1, denominator))


def _finite(exponents: Array) -> Array:
    """0 in place of -inf, where all there is to be divided is 0."""
    return np.where(np.isneginf(exponents), 0, exponents)
