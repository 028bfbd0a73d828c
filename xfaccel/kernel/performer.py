"""Performer, fast: features made and used chunk by chunk in the scan engine."""

import numpy as np

from xfaccel.engine import scan

Array = np.ndarray


def performer(q: Array, k: Array, v: Array, *, projection: Array, features: str = "positive",
              causal: bool = False, key_mask: Array | None = None, scale: float | None = None) -> Array:
    """Attention by random features (Choromanski et al. 2020): positive, hyperbolic, trigonometric or relu.

    (...,n,d),(...,m,d),(...,m,e) -> (...,n,e). Follows `xfref.performer`: projection, features and running
    sums go together, 64 tokens at a time, so the features are never stored.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O((n + m) r (d + e)) time, causal or not.
    Memory: threads * scan(f) + (2 * max(heads, 8) if causal else 0 if heads >= 8 else 32) * state(f); f is
    2 r for hyperbolic and trigonometric features, else r.
    """
    return scan.attend(q, k, v, causal=causal, key_mask=key_mask, features=_known(features),
                       projection=projection, scale=scale)


def performer_step(state: tuple[Array, Array, Array] | None, q: Array, k: Array, v: Array, *,
                   projection: Array, features: str = "positive",
                   scale: float | None = None) -> tuple[tuple[Array, Array, Array], Array]:
    """The next c tokens of a causal sequence, from a state of constant size.

    ((...,f,e),(...,f),(...,f)),(...,c,d),(...,c,d),(...,c,e) -> state, (...,c,e). Follows
    `xfref.performer_step`; states may be handed from one to the other.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O(c r (d + e)) time.
    Memory: threads * scan(f) + heads * state(f); up to 8 tokens need the latter alone.
    """
    return scan.step(state, q, k, v, features=_known(features), projection=projection, scale=scale)


def _known(features: str) -> str:
    if features not in scan.KINDS:
        raise ValueError(f"features needs one of {', '.join(scan.KINDS)}, got {features!r}")
    return features
