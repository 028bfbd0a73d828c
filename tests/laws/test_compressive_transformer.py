"""Laws of the Compressive Transformer: its attention, its memories and how they are compressed."""

import functools
import math

import numpy as np
import pytest
import scipy.special
from lawbook import close, law, qkv

import xfref

LENGTHS = [(6, 6), (4, 6), (1, 1), (0, 3)]
OLDER = [(5, 3), (5, 0), (0, 3), (0, 0), (1, 1)]


def older(rng, length, d=4, e=5, lead=(2, 3)):
    return rng.standard_normal((*lead, length, d)), rng.standard_normal((*lead, length, e))


def parameters(rng, total, d=4, lead=(3,)):
    return dict(relative_keys=rng.standard_normal((*lead, total, d)),
                content_bias=rng.standard_normal((*lead, d)), position_bias=rng.standard_normal((*lead, d)))


# attention


@law("compressive_transformer")
def test_by_hand(package):
    x, memory, compressed = np.ones((1, 1)), np.array([[3.0], [6.0]]), np.array([[24.0]])
    # a key at distance t weighs 1 + t: the token itself 1, the memory 2 and 3, the compressed slot 4
    relative_keys = np.log(np.arange(1.0, 5.0))[:, None]
    own, far = np.array([[9.0]]), (np.zeros((1, 1)), compressed)
    out = package.compressive_transformer(x, 0 * x, own, memory=(np.zeros((2, 1)), memory), compressed=far,
                                          relative_keys=relative_keys)
    close(out, np.array([[(1 * 9 + 2 * 6 + 3 * 3 + 4 * 24) / 10]]))
    # and twice as much where the key is log 2
    out = package.compressive_transformer(x, 0 * x, own, memory=(np.log([[2.0], [1.0]]), memory),
                                          compressed=far, relative_keys=relative_keys)
    close(out, np.array([[(1 * 9 + 2 * 6 + 6 * 3 + 4 * 24) / 13]]))


@law("compressive_transformer")
@pytest.mark.parametrize("n, m", LENGTHS)
@pytest.mark.parametrize("recent, slots", OLDER)
def test_in_loops(package, n, m, recent, slots, rng):
    q, k, v = qkv(rng, n, m)
    memory, compressed = older(rng, recent), older(rng, slots)
    own, key_mask = parameters(rng, slots + recent + m), rng.random((2, 1, m)) < 0.6
    for other in ({}, dict(scale=0.8), dict(key_mask=key_mask)):
        out = package.compressive_transformer(q, k, v, memory=memory, compressed=compressed, **own, **other)
        for b, h in np.ndindex(2, 3):
            r, u, w = (x[h] for x in own.values())
            keys = [*compressed[0][b, h], *memory[0][b, h], *k[b, h]]
            values = [*compressed[1][b, h], *memory[1][b, h], *v[b, h]]
            for i in range(n):
                place, weights = slots + recent + m - n + i, {}
                for j in range(place + 1):
                    own_key = j - slots - recent
                    if "key_mask" not in other or own_key < 0 or key_mask[b, 0, own_key]:
                        content = sum((q[b, h, i] + u) * keys[j])
                        position = sum((q[b, h, i] + w) * r[place - j])
                        weights[j] = math.exp(other.get("scale", 0.5) * (content + position))  # 0.5 = 4^-0.5
                wanted = sum((weight * values[j] for j, weight in weights.items()), np.zeros(5))
                close(out[b, h, i], wanted / sum(weights.values()) if weights else wanted)


@law("compressive_transformer")
@pytest.mark.parametrize("recent, slots", OLDER)
def test_it_is_transformer_xl_over_all_that_is_kept(package, recent, slots, rng):
    q, k, v = qkv(rng, 6)
    memory, compressed = older(rng, recent), older(rng, slots)
    own = parameters(rng, slots + recent + 6)
    keys, values = (np.concatenate(x, axis=-2) for x in zip(compressed, memory, (k, v), strict=True))
    close(package.compressive_transformer(q, k, v, memory=memory, compressed=compressed, **own),
          package.transformer_xl(q, keys, values, **own))


@law("compressive_transformer")
def test_the_order_of_all_that_is_kept_does_not_matter_without_distances(package, rng):
    q, k, v = qkv(rng, 6)
    memory, compressed = older(rng, 5), older(rng, 3)
    nowhere = dict(relative_keys=np.zeros((14, 4)))
    out = package.compressive_transformer(q, k, v, memory=memory, compressed=compressed, **nowhere)
    order = rng.permutation(8)
    mixed = [np.concatenate(x, axis=-2)[..., order, :] for x in zip(memory, compressed, strict=True)]
    nothing = tuple(x[..., :0, :] for x in mixed)
    close(package.compressive_transformer(q, k, v, memory=mixed, compressed=nothing, **nowhere), out)
    close(package.compressive_transformer(q, k, v, memory=nothing, compressed=mixed, **nowhere), out)


@law("compressive_transformer")
def test_memories_have_leading_axes_of_their_own_and_the_dtype_of_q(package, rng):
    q, k, v = qkv(rng, 6)
    own = parameters(rng, 14, lead=())
    for recent_lead, slot_lead in (((), (3,)), ((2, 1), ()), ((3,), (2, 3)), ((1, 3), (2, 1))):
        memory, compressed = older(rng, 5, lead=recent_lead), older(rng, 3, lead=slot_lead)
        out = package.compressive_transformer(q, k, v, memory=memory, compressed=compressed, **own)
        wide = [tuple(np.broadcast_to(x, (2, 3, *x.shape[-2:])) for x in pair)
                for pair in (memory, compressed)]
        for place in np.ndindex(2, 3):
            near, far = (tuple(x[place] for x in pair) for pair in wide)
            close(out[place], package.compressive_transformer(
                q[place], k[place], v[place], memory=near, compressed=far, **own))
    single = [x.astype(np.float32) for x in (q, k, v)]
    out = package.compressive_transformer(*single, memory=memory, compressed=compressed, **own)
    assert out.dtype == np.float32


@law("compressive_transformer", "compressive_update", "compress_mean")
def test_nothing_is_lost_at_rate_1(package, rng):
    """Identity for a compression: a Transformer-XL whose memory is as long as both together."""
    q, k, v = qkv(rng, 24, lead=(2,))
    own = parameters(rng, 4 + 5 + 3, lead=())
    together = np.concatenate([k, v], axis=-1)
    memory, compressed = together[..., :0, :], together[..., :0, :]
    for start in range(0, 24, 4):
        now = slice(start, start + 4)
        near, far = (tuple(np.split(x, [4], axis=-1)) for x in (memory, compressed))
        total = min(start, 8) + 4
        known = own | dict(relative_keys=own["relative_keys"][:total])
        out = package.compressive_transformer(q[:, now], k[:, now], v[:, now], memory=near, compressed=far,
                                              **known)
        past = slice(max(start - 8, 0), start + 4)
        close(out, package.transformer_xl(q[:, now], k[:, past], v[:, past], **known))
        memory, compressed = xfref.compressive_update(
            memory, compressed, together[:, now], memory_length=5, compressed_length=3,
            compress=functools.partial(xfref.compress_mean, rate=1))


# compressions


@law("compress_mean", "compress_max")
@pytest.mark.parametrize("rate", [1, 2, 3, 6])
def test_pooling_in_loops(rate, rng):
    x = rng.standard_normal((2, 12, 5))
    mean, largest = xfref.compress_mean(x, rate), xfref.compress_max(x, rate)
    assert mean.shape == largest.shape == (2, 12 // rate, 5)
    for b, t, c in np.ndindex(*mean.shape):
        group = [x[b, t * rate + s, c] for s in range(rate)]
        close(mean[b, t, c], np.float64(sum(group) / rate))
        assert largest[b, t, c] == max(group)


@law("compress_conv")
@pytest.mark.parametrize("rate", [1, 2, 3])
def test_a_convolution_in_loops(rate, rng):
    x, kernel = rng.standard_normal((2, 6, 4)), rng.standard_normal((rate, 4, 4))
    out = xfref.compress_conv(x, kernel)
    assert out.shape == (2, 6 // rate, 4)
    for b, t, c in np.ndindex(*out.shape):
        terms = [x[b, t * rate + s, a] * kernel[s, a, c] for s in range(rate) for a in range(4)]
        close(out[b, t, c], np.float64(sum(terms)))


@law("compress_conv", "compress_mean")
def test_convolutions_that_are_something_else(rng):
    x, eye = rng.standard_normal((2, 6, 4)), np.eye(4)
    close(xfref.compress_conv(x, np.stack([eye, eye, eye]) / 3), xfref.compress_mean(x, 3))
    close(xfref.compress_conv(x, np.stack([0 * eye, eye, 0 * eye])), x[:, 1::3])
    matrix = rng.standard_normal((4, 4))
    close(xfref.compress_conv(x, matrix[None]), x @ matrix)


@law("compress_dilated")
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_dilated_convolutions_in_full(layers, rng):
    """Every layer at every position, and the stride at the end."""
    x, kernels = rng.standard_normal((2, 16, 4)), rng.standard_normal((layers, 2, 4, 4))
    y = x
    for layer in range(layers):
        hop = 2**layer
        first, second = y[:, :-hop], y[:, hop:]
        if layer:
            first, second = (np.where(part > 0, part, 0) for part in (first, second))
        y = first @ kernels[layer, 0] + second @ kernels[layer, 1]
    out = xfref.compress_dilated(x, kernels)
    assert out.shape == (2, 16 // 2**layers, 4)
    close(out, y[:, ::2**layers])


@law("compress_dilated", "compress_conv")
def test_one_dilated_layer_is_a_convolution_at_rate_2(rng):
    x, kernels = rng.standard_normal((2, 6, 4)), rng.standard_normal((1, 2, 4, 4))
    close(xfref.compress_dilated(x, kernels), xfref.compress_conv(x, kernels[0]))


@law("compress_most_used")
def test_the_most_used_stay_in_the_order_of_time(rng):
    x = np.arange(8.0)[:, None]

    def kept(usage, rate):
        return xfref.compress_most_used(x, np.array(usage), rate).ravel().tolist()

    assert kept([0.1, 0.9, 0.2, 0.8, 0.3, 0.7, 0.4, 0.6], 2) == [1, 3, 5, 7]
    assert kept([8.0, 7, 6, 5, 4, 3, 2, 1], 4) == [0, 1]
    assert kept([1.0, 2, 3, 4, 5, 6, 7, 8], 4) == [6, 7]
    assert kept([5.0, 1, 1, 1, 1, 1, 1, 9], 2) == [0, 1, 2, 7]  # of equal ones the earlier
    assert kept([0.0] * 8, 8) == [0]
    assert kept(rng.random(8), 1) == list(range(8))
    # usage for all batch entries, or one for each
    x, usage = rng.standard_normal((2, 3, 8, 4)), rng.random((2, 1, 8))
    out = xfref.compress_most_used(x, usage, 2)
    for b, h in np.ndindex(2, 3):
        places = sorted(sorted(range(8), key=lambda j, b=b: -usage[b, 0, j])[:4])
        close(out[b, h], x[b, h][places])
        close(xfref.compress_most_used(x, usage[b, 0], 2)[b], out[b])


@law("compress_conv", "compress_dilated")
def test_kernels_have_leading_axes_of_their_own(rng):
    x, kernel = rng.standard_normal((2, 3, 8, 4)), rng.standard_normal((3, 2, 2, 4, 4))
    per_head, stack = xfref.compress_conv(x, kernel[:, 0]), xfref.compress_dilated(x, kernel)
    for h in range(3):
        close(per_head[:, h], xfref.compress_conv(x[:, h], kernel[h, 0]))
        close(stack[:, h], xfref.compress_dilated(x[:, h], kernel[h]))


@law("compress_mean", "compress_max", "compress_conv", "compress_dilated", "compress_most_used")
def test_a_compression_keeps_the_type_and_the_input_and_takes_nothing_at_all(rng):
    x = rng.standard_normal((2, 8, 4)).astype(np.float32)
    for compress in (functools.partial(xfref.compress_mean, rate=2),
                     functools.partial(xfref.compress_max, rate=2),
                     functools.partial(xfref.compress_mean, rate=1),
                     functools.partial(xfref.compress_conv, kernel=rng.standard_normal((2, 4, 4))),
                     functools.partial(xfref.compress_dilated, kernels=rng.standard_normal((2, 2, 4, 4)))):
        before = x.tobytes()
        out = compress(x)
        assert out.dtype == np.float32 and x.tobytes() == before and not np.shares_memory(out, x)
        assert compress(x[:, :0]).shape == (2, 0, 4)
    out = xfref.compress_most_used(x, rng.random(8), 2)
    assert out.dtype == np.float32 and out.shape == (2, 4, 4) and not np.shares_memory(out, x)
    assert xfref.compress_most_used(x[:, :0], rng.random(0), 2).shape == (2, 0, 4)


# memories


def tokens(*numbers):
    return np.array(numbers, float).reshape(-1, 1)


@law("compressive_update")
def test_memories_segment_by_segment():
    """Tokens 1, 2, 3, ... in segments of 4, a memory of 4 and 3 slots at rate 2: sums tell who is where."""
    memory = compressed = np.zeros((0, 1))
    found = []
    for start in (1, 5, 9, 13):
        memory, compressed = xfref.compressive_update(
            memory, compressed, tokens(*range(start, start + 4)), memory_length=4, compressed_length=3,
            compress=lambda old: old[0::2] + old[1::2])
        found.append((memory.ravel().tolist(), compressed.ravel().tolist()))
    assert found == [([1, 2, 3, 4], []), ([5, 6, 7, 8], [3, 7]), ([9, 10, 11, 12], [7, 11, 15]),
                     ([13, 14, 15, 16], [15, 19, 23])]


@law("compressive_update")
def test_memories_that_are_longer_or_shorter_than_a_segment():
    def update(memory, compressed, segment, memory_length, compressed_length):
        out = xfref.compressive_update(
            tokens(*memory), tokens(*compressed), tokens(*segment), memory_length=memory_length,
            compressed_length=compressed_length, compress=lambda old: -old)
        return tuple(x.ravel().tolist() for x in out)

    assert update([1, 2], [], [3, 4], 6, 2) == ([1, 2, 3, 4], [])  # still filling: nothing leaves
    assert update([1, 2, 3, 4, 5], [], [6, 7], 6, 2) == ([2, 3, 4, 5, 6, 7], [-1])
    assert update([1, 2], [9, 8], [3, 4, 5, 6], 1, 9) == ([6], [9, 8, -1, -2, -3, -4, -5])
    assert update([1, 2], [9, 8], [3], 0, 4) == ([], [8, -1, -2, -3])
    assert update([1, 2], [9, 8], [3], 2, 0) == ([2, 3], [])
    assert update([1, 2, 3], [9, 8, 7], [], 2, 3) == ([2, 3], [8, 7, -1])


@law("compressive_update")
def test_zero_memories_of_the_paper_are_compressed_like_any_other(rng):
    h = rng.standard_normal((2, 4, 3))
    memory, compressed = xfref.compressive_update(
        np.zeros((2, 4, 3)), np.zeros((2, 6, 3)), h, memory_length=4, compressed_length=6,
        compress=functools.partial(xfref.compress_max, rate=2))
    close(memory, h)
    close(compressed, np.zeros((2, 6, 3)))


@law("compressive_update")
def test_memories_are_new_arrays_with_the_axes_and_type_of_the_segment(rng):
    segment, memory = rng.standard_normal((2, 3, 4, 5)).astype(np.float32), rng.standard_normal((3, 4, 5))
    compressed = rng.standard_normal((2, 5))
    arrays = segment, memory, compressed
    before = [x.tobytes() for x in arrays]
    after = xfref.compressive_update(memory, compressed, segment, memory_length=4, compressed_length=3,
                                     compress=functools.partial(xfref.compress_mean, rate=4))
    assert [x.tobytes() for x in arrays] == before
    assert [x.shape for x in after] == [(2, 3, 4, 5), (2, 3, 3, 5)]
    for x in after:
        assert x.dtype == np.float32 and not any(np.shares_memory(x, y) for y in arrays)
    close(after[1][..., :2, :], np.broadcast_to(compressed.astype(np.float32), (2, 3, 2, 5)))


# the loss


@law("reconstruction_loss")
def test_the_loss_by_hand():
    q = np.array([[0.0], [math.log(3)]])
    old_k, old_v = np.array([[0.0], [1.0]]), np.array([[0.0], [8.0]])
    new_k, new_v = np.array([[5.0]]), np.array([[3.0]])
    # the first query finds the mean 4, the second weighs 1 : 3 and finds 6; both find 3 after compression
    close(xfref.reconstruction_loss(q, old_k, old_v, new_k, new_v), np.float64(1**2 + 3**2))
    twice = [np.stack([x, x]) for x in (q, old_k, old_v, new_k, new_v)]
    close(xfref.reconstruction_loss(*twice), np.float64(20))


@law("reconstruction_loss")
def test_the_loss_in_full(rng):
    q, old_k, old_v = qkv(rng, 5, 6, lead=(2,))
    _, new_k, new_v = qkv(rng, 5, 3, lead=(2,))
    outs = [scipy.special.softmax(np.einsum("bid,bjd->bij", q, k) / 2, axis=-1) @ v
            for k, v in ((old_k, old_v), (new_k, new_v))]
    total = sum((a - b)**2 for a, b in zip(*(out.ravel() for out in outs), strict=True))
    close(xfref.reconstruction_loss(q, old_k, old_v, new_k, new_v), total)
    single = [x.astype(np.float32) for x in (q, old_k, old_v, new_k, new_v)]
    assert xfref.reconstruction_loss(*single).dtype == np.float32


@law("reconstruction_loss")
def test_what_loses_nothing_costs_nothing(rng):
    q, k, v = qkv(rng, 5, 6, lead=(2,))
    order = rng.permutation(6)
    close(xfref.reconstruction_loss(q, k, v, k[:, order], v[:, order]), np.float64(0))
    # equal neighbours have a mean that stands for both
    k, v = (np.repeat(x, 2, axis=-2) for x in (k, v))
    losses = [xfref.reconstruction_loss(q, k, v, xfref.compress_mean(k, rate), xfref.compress_mean(v, rate))
              for rate in (2, 3)]
    close(losses[0], np.float64(0))
    assert losses[1] > 1e-3
