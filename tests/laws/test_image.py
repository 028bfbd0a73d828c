"""Laws of the Image Transformer's two kinds of local attention."""

import numpy as np
import pytest
from lawbook import close, holds, law, qkv


@law("image_1d", "image_2d")
def test_image_by_hand(package):
    # keys with weights 1, 2, 3, 6
    q, k = np.ones((4, 1)), np.log([[1.0], [2.0], [3.0], [6.0]])
    v = np.array([[12.0], [0.0], [6.0], [24.0]])
    # blocks 01 and 23, the second with key 1 before it
    close(package.image_1d(q, k, v, block=2, memory=1, scale=1.0), np.array(
        [[12.0], [12 / 3], [18 / 5], [(18 + 144) / 11]]))
    close(package.image_1d(q, k, v, block=2, memory=1, causal=False, scale=1.0), np.array(
        [[30 / 6], [30 / 6], [162 / 11], [162 / 11]]))
    # two columns of two pixels: the right one sees all of the left one, the pixel below left included
    close(package.image_2d(q, k, v, shape=(2, 2), block=(2, 1), flange=(0, 1), scale=1.0), np.array(
        [[12.0], [30 / 6], [30 / 4], [(30 + 144) / 12]]))


@law("image_1d")
@pytest.mark.parametrize("block, memory", [(1, 0), (1, 3), (4, 0), (5, 2), (3, 7), (20, 5)])
def test_image_1d_in_loops(package, block, memory, rng):
    def start(p):
        return next(s for s in range(0, 12, block) if s <= p < s + block)

    def sees(p, j, *_):
        return start(p) - memory <= j <= p

    def sees_both_sides(p, j, *_):
        return start(p) - memory <= j < start(p) + block + memory

    args, options = qkv(rng), dict(block=block, memory=memory)
    for other in ({}, dict(key_mask=rng.random(12) < 0.6), dict(scale=0.3)):
        holds(package.image_1d, args, options | other, sees)
        holds(package.image_1d, args, options | other | dict(causal=False), sees_both_sides)


def generated(shape, block):
    """The pixels in the order in which they are generated: block after block, row by row in each."""
    (height, width), (b, c) = shape, block
    return [y * width + x for top in range(0, height, b) for left in range(0, width, c)
            for y in range(top, min(top + b, height)) for x in range(left, min(left + c, width))]


@law("image_2d")
@pytest.mark.parametrize("shape, block", [
    ((3, 4), (1, 1)), ((3, 4), (2, 2)), ((4, 3), (2, 2)), ((2, 6), (2, 3)), ((4, 3), (3, 1)),
    ((3, 4), (5, 5))])
@pytest.mark.parametrize("flange", [(0, 0), (1, 0), (0, 2), (2, 1)])
def test_image_2d_in_loops(package, shape, block, flange, rng):
    """The block grown by its flange; causal hides from it what is not generated yet."""
    rank = {pixel: place for place, pixel in enumerate(generated(shape, block))}

    def within(p, j, axis):
        """Whether j lies in the grown block of p, and whether it does without the flange at the end."""
        own, other = divmod(p, shape[1])[axis], divmod(j, shape[1])[axis]
        start = next(s for s in range(0, 12, block[axis]) if s <= own < s + block[axis])
        begun, stop = start - flange[axis] <= other, start + block[axis]
        return begun and other < stop + flange[axis], begun and other < stop

    def sees_all_sides(p, j, *_):
        return within(p, j, 0)[0] and within(p, j, 1)[0]

    def sees(p, j, *_):
        return within(p, j, 0)[1] and within(p, j, 1)[0] and rank[j] <= rank[p]

    args, options = qkv(rng, lead=(2,)), dict(shape=shape, block=block, flange=flange)
    for other in ({}, dict(key_mask=rng.random(12) < 0.7, scale=0.3)):
        holds(package.image_2d, args, options | other, sees)
        holds(package.image_2d, args, options | other | dict(causal=False), sees_all_sides)


@law("image_2d")
@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=lambda dtype: dtype.__name__)
def test_a_pixel_does_not_depend_on_what_is_generated_after_it(package, dtype, rng):
    options = dict(shape=(9, 11), block=(4, 3), flange=(3, 4))
    args = [x.astype(dtype) for x in qkv(rng, 99, lead=(2,))]
    before, order = package.image_2d(*args, **options), generated((9, 11), (4, 3))
    for t in (1, 12, 13, 40, 70, 98):
        changed = [x.copy() for x in args]
        for x in changed:
            x[..., order[t:], :] = 1e4 * rng.standard_normal((2, 99 - t, x.shape[-1]))
        after = package.image_2d(*changed, **options)
        assert before[..., order[:t], :].tobytes() == after[..., order[:t], :].tobytes()
        assert (before != after).any(axis=(0, -1))[order[t:]].all()


@law("image_1d", "image_2d")
def test_limits_of_blocks(package, rng):
    args, mask = qkv(rng), dict(key_mask=rng.random((2, 1, 12)) < 0.7)
    whole, past = package.attention(*args, **mask), package.attention(*args, causal=True, **mask)
    for options in (dict(block=12, memory=0), dict(block=5, memory=12), dict(block=99, memory=99)):
        close(package.image_1d(*args, **options, **mask), past)
        close(package.image_1d(*args, **options, causal=False, **mask), whole)
    # blocks of one row see all rows above, as far as the flange reaches
    for block, flange in (((3, 4), (0, 0)), ((99, 99), (5, 5)), ((1, 2), (3, 4))):
        options = dict(shape=(3, 4), block=block, flange=flange)
        close(package.image_2d(*args, **options, **mask), past)
        close(package.image_2d(*args, **options, causal=False, **mask), whole)
    close(package.image_1d(*args, block=1, memory=0), args[2])
    close(package.image_2d(*args, shape=(3, 4), block=(1, 1), flange=(0, 0)), args[2])


@law("image_1d")
@pytest.mark.parametrize("n", [12, 13, 5])
def test_image_1d_with_whole_blocks_of_memory_is_block_local(package, n, rng):
    args = qkv(rng, n)
    for hops in (0, 1, 2):
        close(package.image_1d(*args, block=4, memory=4 * hops),
              package.block_local(*args, block=4, before=hops, causal=True))
        close(package.image_1d(*args, block=4, memory=4 * hops, causal=False),
              package.block_local(*args, block=4, before=hops, after=hops))
    close(package.image_1d(*args, block=1, memory=3), package.sliding_window(*args, left=3, right=0))


@law("image_2d")
def test_image_2d_in_one_row_or_in_whole_rows_is_image_1d(package, rng):
    args = qkv(rng)
    for causal in (True, False):
        close(package.image_2d(*args, shape=(1, 12), block=(1, 5), flange=(3, 2), causal=causal),
              package.image_1d(*args, block=5, memory=2, causal=causal))
        close(package.image_2d(*args, shape=(4, 3), block=(2, 3), flange=(1, 0), causal=causal),
              package.image_1d(*args, block=6, memory=3, causal=causal))


@law("image_2d")
def test_rows_and_columns_change_places_where_nothing_is_hidden(package, rng):
    args, order = qkv(rng), np.arange(12).reshape(3, 4).T.ravel()
    turned = package.image_2d(*(x[..., order, :] for x in args), shape=(4, 3), block=(3, 2), flange=(2, 1),
                              causal=False)
    out = package.image_2d(*args, shape=(3, 4), block=(2, 3), flange=(1, 2), causal=False)
    close(turned, out[..., order, :])


@law("image_1d", "image_2d")
@pytest.mark.parametrize("causal", [True, False])
def test_a_ragged_image_is_a_padded_one_whose_padding_is_masked(package, causal, rng):
    args, wide = qkv(rng, 15), qkv(rng, 24)
    inside = np.array([y < 3 and x < 5 for y in range(4) for x in range(6)])
    for x, y in zip(wide, args, strict=True):
        x[..., inside, :] = y
    options = dict(block=(2, 3), flange=(1, 2), causal=causal)
    out = package.image_2d(*wide, shape=(4, 6), key_mask=inside, **options)
    close(package.image_2d(*args, shape=(3, 5), **options), out[..., inside, :])
    options = dict(block=4, memory=2, causal=causal)
    out = package.image_1d(*wide, key_mask=np.arange(24) < 15, **options)
    close(package.image_1d(*(x[..., :15, :] for x in wide), **options), out[..., :15, :])


@law("image_2d")
def test_equal_keys_give_the_mean_of_the_visible_pixels(package, rng):
    q, k, v = qkv(rng)
    k = np.repeat(k[..., :1, :], 12, axis=-2)
    out = package.image_2d(q, k, v, shape=(3, 4), block=(2, 2), flange=(1, 1))
    # (1, 2), in the second block: left (0, 1) and (1, 1); own (0, 2), (0, 3) and itself
    close(out[..., 6, :], v[..., [1, 5, 2, 3, 6], :].mean(axis=-2))
    # (2, 0), in the third block: above (1, 0), (1, 1) and, by the flange, (1, 2); itself
    close(out[..., 8, :], v[..., [4, 5, 6, 8], :].mean(axis=-2))
