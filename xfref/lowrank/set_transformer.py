"""Set Transformer: blocks in which the elements of a set attend to each other, to a few points or to seeds.

Set Transformer: A Framework for Attention-based Permutation-Invariant Neural Networks. Lee, Lee, Kim,
Kosiorek, Choi, Teh. 2019. arXiv:1810.00825, Sections 3.1 and 3.2, Eqs. 6 to 11.

Differs: scores are divided by the root of a head's width, where the paper and the authors' code take the full
width (an `attend` with that `scale` follows them). The row-wise layer, which the paper leaves open, is a
linear one and max(0, .), as in that code. It departs from the paper, and from this page, elsewhere: it adds
the projected query instead of x, has no projection behind the heads, normalises only if asked and gives PMA
no layer of its own. Masks are not in the paper: nobody sees a masked element, and its own row, where there is
one, is computed like the others.
"""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from xfref.core import attention, check_array, check_key_mask, layer_norm, leading, parameter
from xfref.transformer import linear, multi_head, multi_head_weights, weight

Array = np.ndarray


def mab(x: Array, y: Array, weights: Mapping[str, Array], *, heads: int, key_mask: Array | None = None,
        attend: Callable[..., Array] = attention) -> Array:
    """Multihead attention block: x attends to the set y, then passes through a row-wise layer.

    h = LN(x + MultiHead(x, y, y));   out = LN(h + rFF(h));   rFF(h) = max(0, h wf + bf)

    (...,n,w),(...,m,w) -> (...,n,w). `weights` holds wq, wk, wv, wo, wf (w, w), bq, bk, bv, bo, bf (w) and
    the gains and biases of the normalisations, g1 n1 g2 n2 (w). `key_mask`, (m,) or y.ndim - 1 axes, is True
    for the elements of the set; `attend` is called as by `multi_head`, with a `key_mask` if there is one.

    Raises: TypeError or ValueError naming the argument or weight that does not fit.
    Cost: O((n + m) w^2) and the cost of `attend`.

    >>> rng = np.random.default_rng(0)
    >>> weights, x, y = mab_weights(rng, 4), rng.standard_normal((2, 4)), rng.standard_normal((5, 4))
    >>> np.allclose(mab(x, y, weights, heads=2), mab(x, y[::-1], weights, heads=2))
    True
    """
    check_array("x", x, least=2)
    check_array("y", y, least=2, dtype=x.dtype, like="x")
    width, lead = x.shape[-1], leading(x, y, names="x and y")
    if y.shape[-1] != width:
        raise ValueError(f"x and y need the same width, got {width} and {y.shape[-1]}")
    if key_mask is not None:
        check_key_mask(key_mask, y, lead)
        attend = partial(attend, key_mask=key_mask if key_mask.ndim == 1 else key_mask[..., None, :])
    x = np.broadcast_to(x, (*lead, *x.shape[-2:]))
    h = _normalise(x + multi_head(x, y, weights, heads=heads, attend=attend), weights, 1)  # Eq. 7
    return _normalise(h + _row_wise(h, weights, "wf", "bf"), weights, 2)  # Eq. 6


def sab(x: Array, weights: Mapping[str, Array], *, heads: int, key_mask: Array | None = None,
        attend: Callable[..., Array] = attention) -> Array:
    """Set attention block: the elements of a set attend to each other.

    SAB(x) = MAB(x, x)

    (...,n,w) -> (...,n,w). Parameters and errors as for `mab`.

    Cost: O(n w^2) and the cost of `attend`.

    >>> rng = np.random.default_rng(0)
    >>> weights, x = mab_weights(rng, 4), rng.standard_normal((5, 4))
    >>> np.allclose(sab(x[::-1], weights, heads=2), sab(x, weights, heads=2)[::-1])
    True
    """
    return mab(x, x, weights, heads=heads, key_mask=key_mask, attend=attend)  # Eq. 8


def isab(x: Array, inducing: Array, weights_in: Mapping[str, Array], weights_out: Mapping[str, Array], *,
         heads: int, key_mask: Array | None = None, attend: Callable[..., Array] = attention) -> Array:
    """Induced set attention block: r learned points attend to the set, and the set attends to them.

    ISAB(x) = MAB(x, h);   h = MAB(inducing, x)

    (...,n,w),(...,r,w) -> (...,n,w). `inducing` is (lead..., r, w); `weights_in` belongs to h and
    `weights_out` to the result. Other parameters and errors as for `mab`.

    Cost: O((n + r) w^2) and two calls of `attend`, of r to n and of n to r.

    >>> rng = np.random.default_rng(0)
    >>> inner, outer, x = mab_weights(rng, 4), mab_weights(rng, 4), rng.standard_normal((5, 4))
    >>> isab(x, np.eye(2, 4), inner, outer, heads=2).shape
    (5, 4)
    """
    check_array("x", x, least=2)
    inducing = parameter("inducing", inducing, x.dtype, own=(None, x.shape[-1]), lead=x.shape[:-2])
    h = mab(inducing, x, weights_in, heads=heads, key_mask=key_mask, attend=attend)  # Eq. 10
    return mab(x, h, weights_out, heads=heads, attend=attend)  # Eq. 9


def pma(x: Array, seeds: Array, weights: Mapping[str, Array], *, heads: int, key_mask: Array | None = None,
        attend: Callable[..., Array] = attention) -> Array:
    """Pooling by multihead attention: r learned seeds attend to the set, in whatever order it stands.

    PMA(x) = MAB(seeds, rFF(x));   rFF(x) = max(0, x wz + bz)

    (...,n,w),(...,r,w) -> (...,r,w). `seeds` is (lead..., r, w), in the paper mostly r = 1; `weights` holds
    those of `mab` and wz (w, w), bz (w). Other parameters and errors as for `mab`.

    Cost: O((n + r) w^2) and the cost of `attend`, of r to n.

    >>> rng = np.random.default_rng(0)
    >>> weights, x = pma_weights(rng, 4), rng.standard_normal((5, 4))
    >>> np.allclose(pma(x[::-1], np.eye(1, 4), weights, heads=2), pma(x, np.eye(1, 4), weights, heads=2))
    True
    """
    check_array("x", x, least=2)
    seeds = parameter("seeds", seeds, x.dtype, own=(None, x.shape[-1]), lead=x.shape[:-2])
    features = _row_wise(x, weights, "wz", "bz")
    return mab(seeds, features, weights, heads=heads, key_mask=key_mask, attend=attend)  # Eq. 11


def mab_weights(rng: np.random.Generator, width: int) -> dict[str, Array]:
    """Random weights for `mab`, `sab` and each half of `isab`, as for `encoder_block`; float64."""
    norms = dict(g1=np.ones(width), n1=np.zeros(width), g2=np.ones(width), n2=np.zeros(width))
    return multi_head_weights(rng, width) | _layer_weights(rng, width, "f") | norms


def pma_weights(rng: np.random.Generator, width: int) -> dict[str, Array]:
    """Random weights for `pma`: those of `mab` and of its own row-wise layer; float64."""
    return mab_weights(rng, width) | _layer_weights(rng, width, "z")


def _row_wise(x: Array, weights: Mapping[str, Array], matrix: str, bias: str) -> Array:
    return np.maximum(0, linear(x, weights, matrix, bias, width=x.shape[-1]))


def _normalise(x: Array, weights: Mapping[str, Array], place: int) -> Array:
    return layer_norm(x, weight(weights, f"g{place}"), weight(weights, f"n{place}"))


def _layer_weights(rng: np.random.Generator, width: int, name: str) -> dict[str, Array]:
    return {f"w{name}": rng.normal(0, width**-0.5, (width, width)), f"b{name}": np.zeros(width)}
