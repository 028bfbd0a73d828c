"""Linear Transformer: positive features in place of the exponential, so that attention is a running sum.

Transformers are RNNs: Fast Autoregressive Transformers with Linear Attention. Katharopoulos, Vyas, Pappas,
Fleuret. 2020. arXiv:2006.16236, Sections 3.2 to 3.4.

Differs: no epsilon in the denominator (released code adds 1e-6); a zero denominator gives zero.
"""

import numpy as np

from xfref.core import check_key_mask, check_state, kernel_attention, leading, lengths, read_state


def linear_transformer(q: np.ndarray, k: np.ndarray, v: np.ndarray, *, causal: bool = False,
                       key_mask: np.ndarray | None = None) -> np.ndarray:
    """Attention with the similarity f(q) . f(k), f(x) = elu(x) + 1, in place of exp(q . k).

    out_i = sum_j (f(q_i) . f(k_j)) v_j / sum_j f(q_i) . f(k_j)               Eq. 4
          = f(q_i)^T (sum_j f(k_j) v_j^T) / f(q_i)^T (sum_j f(k_j))           Eq. 5

    (...,n,d),(...,m,d),(...,m,e) -> (...,n,e). There is no scale. This page computes Eq. 4; Eq. 5, the point
    of the paper, says the same in time linear in the length: `linear_transformer_step` shows it at work.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O((n + m) d e) by Eq. 5, causal or not; here O(n m (d + e)).

    >>> linear_transformer(np.zeros((1, 2)), np.zeros((2, 2)), np.array([[1.0], [3.0]]))
    array([[2.]])
    """
    lengths(q, k, v)
    check_key_mask(key_mask, k, leading(q, k, v))
    return kernel_attention(elu_plus_one(q), elu_plus_one(k), v, key_mask=key_mask, causal=causal)


def linear_transformer_step(state: tuple[np.ndarray, np.ndarray] | None, q: np.ndarray, k: np.ndarray,
                            v: np.ndarray) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    """The next c tokens of a causal sequence, from a state whose size does not depend on the length.

    s_t = s_{t-1} + f(k_t) v_t^T;   z_t = z_{t-1} + f(k_t);   out_t = s_t^T f(q_t) / (z_t . f(q_t))

    ((...,d,e),(...,d)),(...,c,d),(...,c,d),(...,c,e) -> state, (...,c,e). `state=None` starts. Any split of a
    sequence into steps gives what `linear_transformer(causal=True)` gives. The state is never written.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O(c d e) time, O(d e) memory.

    >>> state, first = linear_transformer_step(None, np.zeros((1, 2)), np.zeros((1, 2)), np.array([[1.0]]))
    >>> state, second = linear_transformer_step(state, np.zeros((1, 2)), np.zeros((1, 2)), np.array([[3.0]]))
    >>> second
    array([[2.]])
    """
    c, _ = lengths(q, k, v, equal=True)
    lead = leading(q, k, v)
    q_features, k_features = elu_plus_one(q), elu_plus_one(k)
    if state is None:
        state = np.zeros((*lead, q.shape[-1], v.shape[-1]), q.dtype), np.zeros((*lead, q.shape[-1]), q.dtype)
    s, z = check_state(state, 2, q.shape[-1], q, v)
    out = np.empty((*lead, c, v.shape[-1]), q.dtype)
    for t in range(c):
        s = s + k_features[..., t, :, None] * v[..., t, None, :]  # Eq. 18
        z = z + k_features[..., t, :]  # Eq. 19
        out[..., t, :] = read_state(q_features[..., t, :], s, z)  # Eq. 20
    return (s, z), out


def elu_plus_one(x: np.ndarray) -> np.ndarray:
    """f(x) = elu(x) + 1: x + 1 where x > 0, e^x elsewhere (Eq. 7). (...) -> (...), positive."""
    return np.maximum(x, 0) + np.exp(np.minimum(x, 0))
