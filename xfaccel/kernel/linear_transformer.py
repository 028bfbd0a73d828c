"""Linear attention, fast: running sums in the scan engine."""

import numpy as np

from xfaccel.engine import scan

Array = np.ndarray


def linear_transformer(q: Array, k: Array, v: Array, *, causal: bool = False,
                       key_mask: Array | None = None) -> Array:
    """Attention with the similarity f(q) . f(k), f(x) = elu(x) + 1 (Katharopoulos et al. 2020, Eq. 5).

    (...,n,d),(...,m,d),(...,m,e) -> (...,n,e). Follows `xfref.linear_transformer`: the products are regrouped
    into running sums, taken 64 tokens at a time.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O((n + m) d e) time, causal or not.
    Memory: threads * scan(d) + (2 * max(heads, 8) if causal else 0 if heads >= 8 else 32) * state(d),
        where state(f) = f * (-(-e // 64) * 64 + 2) * size
        and scan(f) = 64 * (138 + 2 * d + 6 * f + 3 * e) * size + state(f).
    """
    return scan.attend(q, k, v, causal=causal, key_mask=key_mask)


def linear_transformer_step(state: tuple[Array, Array] | None, q: Array, k: Array,
                            v: Array) -> tuple[tuple[Array, Array], Array]:
    """The next c tokens of a causal sequence, from a state of constant size.

    ((...,d,e),(...,d)),(...,c,d),(...,c,d),(...,c,e) -> state, (...,c,e). Follows
    `xfref.linear_transformer_step`; states may be handed from one to the other.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O(c d e) time.
    Memory: threads * scan(d) + heads * state(d); up to 8 tokens need the latter alone.
    """
    return scan.step(state, q, k, v)
