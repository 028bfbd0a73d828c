"""Performer: random features whose products average to the exponential, so that attention is a running sum.

Rethinking Attention with Performers. Choromanski, Likhosherstov, Dohan, Song, Gane, Sarlos, Hawkins, Davis,
Mohiuddin, Kaiser, Belanger, Colwell, Weller. 2020. arXiv:2009.14794, Section 2 (FAVOR+); trigonometric
features as in the first version, Masked Language Modeling for Proteins via Linearly Scalable Long-Context
Transformers, arXiv:2006.03555 (FAVOR).

Differs: no epsilon on features or denominators (released code adds 1e-3 to 1e-6); factors that are common to
all features, such as r**-0.5, cancel in the quotient and are left out; the largest exponent is taken out per
query and per key instead of over all keys, so that no row depends on a key it does not see.
"""

import numpy as np

from xfref.core import (
    check_key_mask,
    check_state,
    count,
    hide_keys,
    kernel_attention,
    leading,
    lengths,
    parameter,
    read_state,
    scale_or_default,
)

KINDS = ("positive", "hyperbolic", "trigonometric", "relu")


def performer(q: np.ndarray, k: np.ndarray, v: np.ndarray, *, projection: np.ndarray,
              features: str = "positive", causal: bool = False, key_mask: np.ndarray | None = None,
              scale: float | None = None) -> np.ndarray:
    """Attention with the similarity f(q) . f(k), whose mean over random projections is exp(scale * q . k).

    out_i = sum_j (f(q_i) . f(k_j)) v_j / sum_j f(q_i) . f(k_j)

    (...,n,d),(...,m,d),(...,m,e) -> (...,n,e). `projection` is (lead..., r, d), one random direction a row:
    see `favor_projection`. `features` is one of, with x' = sqrt(scale) x and w a row of the projection,

    - positive: exp(w . x' - |x'|^2 / 2) (Lemma 1, SM+)
    - hyperbolic: the same for w and -w, 2 r features (Lemma 1, SMhyp+)
    - trigonometric: exp(|x'|^2 / 2) (cos(w . x'), sin(w . x')), 2 r features
    - relu: max(w . x', 0), an attention of its own with no exponential behind it

    The paper uses r = 256. Trigonometric features can be negative, and so can their denominators.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O((n + m) r (d + e)) by regrouping the products; here O(n m (r + e)).

    >>> w = favor_projection(np.random.default_rng(0), 4, 2)
    >>> performer(np.zeros((1, 2)), np.zeros((2, 2)), np.array([[1.0], [3.0]]), projection=w)
    array([[2.]])
    """
    lengths(q, k, v)
    check_key_mask(key_mask, k, leading(q, k, v))
    projection, root = _checked(q, k, v, projection, features, scale)
    q_factors, q_exponents = _features(q * root, projection, features)
    k_factors, k_exponents = _features(hide_keys(k, key_mask) * root, projection, features)
    k_top = k_exponents.max(axis=-1)
    q_features = q_factors * np.exp(q_exponents - q_exponents.max(axis=-1, keepdims=True))
    k_features = k_factors * np.exp(k_exponents - k_top[..., None])
    return kernel_attention(q_features, k_features, v, k_exponent=k_top, key_mask=key_mask, causal=causal)


def performer_step(state: tuple[np.ndarray, np.ndarray, np.ndarray] | None, q: np.ndarray, k: np.ndarray,
                   v: np.ndarray, *, projection: np.ndarray, features: str = "positive",
                   scale: float | None = None
                   ) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], np.ndarray]:
    """The next c tokens of a causal sequence, from a state whose size does not depend on the length.

    s_t = s_{t-1} + f(k_t) v_t^T;   z_t = z_{t-1} + f(k_t);   out_t = s_t^T f(q_t) / (z_t . f(q_t))

    ((...,f,e),(...,f),(...,f)),(...,c,d),(...,c,d),(...,c,e) -> state, (...,c,e) with f = r features (2 r for
    hyperbolic and trigonometric). `state=None` starts. The third part of the state is the largest exponent of
    each feature so far, by which the sums are divided. Any split of a sequence into steps gives what
    `performer(causal=True)` gives. The state is never written.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O(c r (d + e)) time, O(r e) memory.

    >>> w = favor_projection(np.random.default_rng(0), 4, 2)
    >>> x = np.zeros((1, 2))
    >>> state, first = performer_step(None, x, x, np.array([[1.0]]), projection=w)
    >>> state, second = performer_step(state, x, x, np.array([[3.0]]), projection=w)
    >>> second
    array([[2.]])
    """
    c, _ = lengths(q, k, v, equal=True)
    lead = leading(q, k, v)
    projection, root = _checked(q, k, v, projection, features, scale)
    q_factors, q_exponents = _features(q * root, projection, features)
    k_factors, k_exponents = _features(k * root, projection, features)
    number = q_factors.shape[-1]
    if state is None:
        sums = (*lead, number)
        state = (np.zeros((*sums, v.shape[-1]), q.dtype), np.zeros(sums, q.dtype),
                 np.full(sums, -np.inf, q.dtype))
    s, z, top = check_state(state, 3, number, q, v)
    out = np.empty((*lead, c, v.shape[-1]), q.dtype)
    for t in range(c):
        new_top = np.maximum(top, k_exponents[..., t, :])
        shrink = np.exp(top - new_top)
        added = k_factors[..., t, :] * np.exp(k_exponents[..., t, :] - new_top)
        s = s * shrink[..., None] + added[..., None] * v[..., t, None, :]
        z = z * shrink + added
        top = new_top
        exponents = q_exponents[..., t, :] + top
        query = q_factors[..., t, :] * np.exp(exponents - exponents.max(axis=-1, keepdims=True))
        out[..., t, :] = read_state(query, s, z)
    return (s, z, top), out


def favor_projection(rng: np.random.Generator, r: int, d: int, *, orthogonal: bool = True) -> np.ndarray:
    """r random directions for `performer`: standard normal rows, orthogonal within each block of d rows.

    -> (r,d) float64. Each block of d rows is a Haar-distributed rotation, the length of each row that of an
    independent d-dimensional normal vector (Section 2.4). The sign of R's diagonal goes into Q: without it QR
    favours some rotations and the features are biased.

    Raises: TypeError or ValueError unless r and d are integers of at least 1.
    Cost: O(r d^2).

    >>> w = favor_projection(np.random.default_rng(0), 3, 3)
    >>> bool(abs(w[0] @ w[1]) < 1e-12)
    True
    """
    count("r", r), count("d", d)
    if not orthogonal:
        return rng.standard_normal((r, d))
    q, upper = np.linalg.qr(rng.standard_normal((-(-r // d), d, d)))
    rotations = q * np.sign(np.diagonal(upper, axis1=-2, axis2=-1))[..., None, :]
    directions = rotations.swapaxes(-1, -2).reshape(-1, d)[:r]
    return directions * np.linalg.norm(rng.standard_normal((r, d)), axis=-1, keepdims=True)


def _features(x: np.ndarray, projection: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """The features of the rows of `x` as (factors, exponents): f(x) = factor * exp(exponent)."""
    along = x @ projection.swapaxes(-1, -2)  # w . x'
    half_square = np.sum(x * x, axis=-1, keepdims=True) / 2
    if kind == "positive":
        return np.ones_like(along), along - half_square
    if kind == "hyperbolic":
        both = np.concatenate([along, -along], axis=-1)
        return np.ones_like(both), both - half_square
    if kind == "trigonometric":
        waves = np.concatenate([np.cos(along), np.sin(along)], axis=-1)
        return waves, np.broadcast_to(half_square, waves.shape)
    return np.maximum(along, 0), np.zeros_like(along)


def _checked(q, k, v, projection, features, scale):
    if features not in KINDS:
        raise ValueError(f"features needs one of {', '.join(KINDS)}, got {features!r}")
    projection = parameter("projection", projection, q.dtype, own=(None, q.shape[-1]), lead=leading(q, k, v))
    if projection.shape[-2] == 0:
        raise ValueError("projection needs at least 1 row, got 0")
    return projection, np.sqrt(scale_or_default(scale, q, positive=True))
