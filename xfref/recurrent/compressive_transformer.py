"""Compressive Transformer: what leaves the memory of a Transformer-XL is compressed instead of forgotten.

Compressive Transformers for Long-Range Sequence Modelling. Rae, Potapenko, Jayakumar, Hillier, Lillicrap.
2019. arXiv:1911.05507, Section 3: the attention and the update of the memories (Algorithm 1), the
compression functions, and the attention-reconstruction loss (Algorithm 2).

Differs: the number of tokens to compress has to be a multiple of the rate, where the paper rounds down. The
paper starts from memories of zeros, which are attended to; here the caller chooses what to start from, which
may be nothing. The loss is the sum of squares, of which the paper takes the root and released code the mean.
"""

from collections.abc import Callable

import numpy as np

from xfref.core import (
    attention,
    check_array,
    check_key_mask,
    count,
    hide_keys,
    joined,
    keys_and_values,
    leading,
    lengths,
    parameter,
    relative_attention,
)

Array = np.ndarray


def compressive_transformer(q: Array, k: Array, v: Array, *, memory: tuple[Array, Array],
                            compressed: tuple[Array, Array], relative_keys: Array,
                            content_bias: Array | None = None, position_bias: Array | None = None,
                            key_mask: Array | None = None, scale: float | None = None) -> Array:
    """Transformer-XL attention of a segment to the compressed memory, the memory and itself, as one sequence.

    s_ij = scale * ((q_i + u) . k_j + (q_i + w) . r_t) over j in [compressed; memory; segment];
    t = i + n_c + n_m + m - n - j >= 0;   out = softmax(s) [v_compressed; v_memory; v]

    (...,n,d),(...,m,d),(...,m,e) -> (...,n,e) with m >= n. `memory` and `compressed` are pairs (keys, values)
    of shapes (lead..., n_m, d), (lead..., n_m, e) and (lead..., n_c, d), (lead..., n_c, e), in the order of
    time; n_m and n_c may be 0. `relative_keys` r (lead..., n_c + n_m + m, d) is listed by distance: a
    compressed slot counts as one position. `content_bias` u and `position_bias` w (lead..., d) are zero if
    None. `key_mask` belongs to the m keys of the segment; memories are seen whole.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O(n (n_c + n_m + m) (d + e)) time, O(n (n_c + n_m + m)) memory; the twin keeps no
    scores.

    >>> past, x, v = (np.zeros((1, 1)), np.array([[3.0]])), np.zeros((1, 1)), np.array([[9.0]])
    >>> compressive_transformer(x, x, v, memory=past, compressed=past, relative_keys=np.zeros((3, 1)))
    array([[5.]])
    """
    _, m = lengths(q, k, v, more_keys=True)
    lead = leading(q, k, v)
    check_key_mask(key_mask, k, lead)
    older = [keys_and_values(name, x, q, v, lead)
             for name, x in (("compressed", compressed), ("memory", memory))]
    own = hide_keys(k, key_mask), hide_keys(v, key_mask)
    keys, values = (joined(*stretches) for stretches in zip(*older, own, strict=True))
    before = np.ones((keys.shape[-2] - m, 1), bool)
    seen = None if key_mask is None else joined(before, key_mask[..., None]).swapaxes(-1, -2)
    return relative_attention(q, keys, values, relative_keys=relative_keys, content_bias=content_bias,
                              position_bias=position_bias, mask=seen, scale=scale)


def compress_mean(x: Array, rate: int) -> Array:
    """The mean of every `rate` tokens.

    c_t = (x_{t rate} + ... + x_{t rate + rate - 1}) / rate

    (...,n,w) -> (...,n/rate,w). The paper tries rates of 2, 3 and 4.

    Raises: TypeError or ValueError if `x` does not fit or its length is no multiple of the rate.
    Cost: O(n w).

    >>> compress_mean(np.array([[1.0], [3.0], [5.0], [5.0]]), 2)
    array([[2.],
           [5.]])
    """
    return _groups(x, rate).mean(axis=-2)


def compress_max(x: Array, rate: int) -> Array:
    """The largest of every `rate` tokens, coordinate by coordinate.

    c_t = max(x_{t rate}, ..., x_{t rate + rate - 1})

    (...,n,w) -> (...,n/rate,w).

    Raises: TypeError or ValueError if `x` does not fit or its length is no multiple of the rate.
    Cost: O(n w).

    >>> compress_max(np.array([[1.0, 2.0], [3.0, 0.0]]), 2)
    array([[3., 2.]])
    """
    return _groups(x, rate).max(axis=-2)


def compress_conv(x: Array, kernel: Array) -> Array:
    """A convolution along time whose width and stride are the rate.

    c_t = sum_s x_{t rate + s} kernel_s

    (...,n,w),(rate,w,w) -> (...,n/rate,w). `kernel` may have leading axes as well.

    Raises: TypeError or ValueError if an argument does not fit or the length is no multiple of the rate.
    Cost: O(n w^2).

    >>> compress_conv(np.array([[1.0], [3.0]]), np.array([[[10.0]], [[1.0]]]))
    array([[13.]])
    """
    check_array("x", x, least=2)
    width = x.shape[-1]
    kernel = parameter("kernel", kernel, x.dtype, own=(None, width, width), lead=x.shape[:-2])
    return np.einsum("...tsw,...swy->...ty", _groups(x, kernel.shape[-3]), kernel)


def compress_dilated(x: Array, kernels: Array) -> Array:
    """A stack of L convolutions of width 2 and dilation 1, 2, 4, ..., and every 2^L-th token of its output.

    y^0 = x;   y^{l+1}_t = f(y^l_t) kernel_{l,0} + f(y^l_{t + 2^l}) kernel_{l,1};   c_t = y^L_{t 2^L}

    (...,n,w),(L,2,w,w) -> (...,n/2^L,w). f is max(0, .), but for the first layer, which takes x as it is.
    `kernels` may have leading axes as well.

    Raises: TypeError or ValueError if an argument does not fit or the length is no multiple of 2^L.
    Cost: O(n w^2).

    >>> compress_dilated(np.array([[1.0], [2.0], [3.0], [-9.0]]), np.ones((2, 2, 1, 1)))
    array([[3.]])
    """
    check_array("x", x, least=2)
    width = x.shape[-1]
    kernels = parameter("kernels", kernels, x.dtype, own=(None, 2, width, width), lead=x.shape[:-2])
    layers = count("the number of kernels", kernels.shape[-4])
    _groups(x, 2**layers)  # here for the error of a length that does not fit
    for layer in range(layers):
        # of this layer's outputs the next one reads every 2^(l+1)-th, so these are neighbours in what is left
        x = compress_conv(np.maximum(x, 0) if layer else x, kernels[..., layer, :, :, :])
    return x


def compress_most_used(x: Array, usage: Array, rate: int) -> Array:
    """The n / rate tokens that were attended to most, in the order of time.

    c = x_j for the n / rate largest usage_j, j ascending

    (...,n,w),(...,n) -> (...,n/rate,w). `usage` is the attention that each token received, on average over
    queries and heads; of equal ones the earlier is kept.

    Raises: TypeError or ValueError if an argument does not fit or the length is no multiple of the rate.
    Cost: O(n log n + n w).

    >>> compress_most_used(np.array([[1.0], [2.0], [3.0], [4.0]]), np.array([0.1, 0.4, 0.2, 0.3]), 2)
    array([[2.],
           [4.]])
    """
    kept = _groups(x, rate).shape[-3]
    usage = parameter("usage", usage, x.dtype, own=x.shape[-2:-1], lead=x.shape[:-2])
    most = np.argsort(-usage, axis=-1, kind="stable")[..., :kept]
    places = np.broadcast_to(np.sort(most, axis=-1), (*x.shape[:-2], kept))
    return np.take_along_axis(x, places[..., None], axis=-2)


def compressive_update(memory: Array, compressed: Array, segment: Array, *, memory_length: int,
                       compressed_length: int, compress: Callable[[Array], Array]) -> tuple[Array, Array]:
    """The memories after a segment: it enters the memory, and what that pushes out is compressed.

    memory' = [memory; segment], the last memory_length tokens;   old = those before them
    compressed' = [compressed; compress(old)], the last compressed_length

    (...,n_m,w),(...,n_c,w),(...,n,w) -> (...,n_m',w),(...,n_c',w) for the hidden states of a layer. Memories
    grow from whatever they start with (length 0, or the zeros of the paper) to their full length. `compress`
    is one of the functions above with its other arguments bound; it is given the tokens that leave, which may
    be none.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O((n_m + n_c + n) w) and the cost of `compress`.

    >>> memory, compressed = compressive_update(
    ...     np.array([[1.0], [3.0]]), np.zeros((0, 1)), np.array([[5.0], [7.0]]), memory_length=2,
    ...     compressed_length=4, compress=lambda old: compress_mean(old, 2))
    >>> memory.ravel(), compressed.ravel()
    (array([5., 7.]), array([2.]))
    """
    count("memory_length", memory_length, 0), count("compressed_length", compressed_length, 0)
    check_array("segment", segment, least=2)
    memory, compressed = (
        parameter(name, x, segment.dtype, own=(None, segment.shape[-1]), lead=segment.shape[:-2])
        for name, x in (("memory", memory), ("compressed", compressed)))
    recent = joined(memory, segment)
    leaving = max(recent.shape[-2] - memory_length, 0)
    older = joined(compressed, compress(recent[..., :leaving, :]))
    forgotten = max(older.shape[-2] - compressed_length, 0)
    return recent[..., leaving:, :], older[..., forgotten:, :]


def reconstruction_loss(q: Array, old_k: Array, old_v: Array, new_k: Array, new_v: Array) -> np.floating:
    """How much attention to tokens changes when they are compressed: what the compression is trained on.

    loss = sum of (attention(q, old_k, old_v) - attention(q, new_k, new_v))^2

    (...,n,d),(...,m,d),(...,m,e),(...,c,d),(...,c,e) -> () of the dtype of q. Contents alone are compared:
    there are no positions and no causal mask, and scores are scaled by d**-0.5.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O(n (m + c) (d + e)) time, O(n (m + c)) memory.

    >>> q, old_k, old_v = np.zeros((1, 1)), np.zeros((2, 1)), np.array([[1.0], [5.0]])
    >>> reconstruction_loss(q, old_k, old_v, compress_max(old_k, 2), compress_max(old_v, 2))
    np.float64(4.0)
    """
    for name, x in (("old_k", old_k), ("old_v", old_v), ("new_k", new_k), ("new_v", new_v)):
        check_array(name, x, least=2, dtype=getattr(q, "dtype", None))
    if old_v.shape[-1] != new_v.shape[-1]:
        raise ValueError(f"old_v and new_v need the same width, got {old_v.shape[-1]} and {new_v.shape[-1]}")
    change = attention(q, old_k, old_v) - attention(q, new_k, new_v)
    return np.sum(change**2)


def _groups(x: Array, rate: int) -> Array:
    """(...,n,w) -> (...,n/rate,rate,w)"""
    check_array("x", x, least=2)
    n, width = x.shape[-2:]
    if n % count("rate", rate):
        raise ValueError(f"x needs a length that is a multiple of the rate {rate}, got {n}")
    return x.reshape(*x.shape[:-2], n // rate, rate, width)
