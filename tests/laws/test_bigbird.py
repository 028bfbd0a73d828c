"""Laws of Big Bird: its lists of blocks in plain loops, sets of keys, limits, and the draw of its blocks."""

import math

import numpy as np
import pytest
from lawbook import close, holds, law, qkv

import xfref

SIZES = [(20, 3), (18, 3), (13, 5), (7, 1), (6, 4), (9, 20), (0, 2)]  # n and the block


def listed(t, number, chosen):
    """The key blocks of query block t."""
    if t in (0, number - 1):
        return set(range(number))
    return {0, t - 1, t, t + 1, number - 1, *chosen}


def table_of(rng, n, block, r, lead=(3,)):
    number = -(-n // block)
    return rng.integers(0, max(number, 1), (*lead, number, r))


@law("bigbird")
@pytest.mark.parametrize("n, block", SIZES)
@pytest.mark.parametrize("r", [0, 1, 3])
def test_bigbird_in_loops(package, n, block, r, rng):
    args, table = qkv(rng, n), table_of(rng, n, block, r)

    def sees(p, j, b, h):
        return j // block in listed(p // block, table.shape[-2], table[h, p // block])

    options = dict(block=block, random_blocks=table)
    holds(package.bigbird, args, options, sees)
    holds(package.bigbird, args, options | dict(scale=0.8, key_mask=rng.random(n) < 0.6), sees)


@law("bigbird")
def test_a_table_may_be_for_all_or_for_each_batch_entry(package, rng):
    args = qkv(rng, 20)
    for lead in ((), (2, 1), (2, 3)):
        table = table_of(rng, 20, 3, 2, lead)
        wide = np.broadcast_to(table, (2, 3, 7, 2))
        holds(package.bigbird, args, dict(block=3, random_blocks=table),
              lambda p, j, b, h, wide=wide: j // 3 in listed(p // 3, 7, wide[b, h, p // 3]))


@law("bigbird")
def test_bigbird_by_hand(package):
    # all scores are 0: rows are means over 7 blocks of one token
    x, v = np.zeros((7, 1)), np.array([[1.0], [2.0], [4.0], [8.0], [16.0], [32.0], [64.0]])
    table = np.array([[0], [4], [5], [3], [1], [5], [0]])
    out = package.bigbird(x, x, v, block=1, random_blocks=table)
    close(out[:, 0], np.array([127 / 7, (1 + 2 + 4 + 16 + 64) / 5, (1 + 2 + 4 + 8 + 32 + 64) / 6,
                               (1 + 4 + 8 + 16 + 64) / 5, (1 + 2 + 8 + 16 + 32 + 64) / 6,
                               (1 + 16 + 32 + 64) / 4, 127 / 7]))
    # key 5 has nine times the weight, once, though row 5 sees it as itself and as a random block
    k = np.where(np.arange(7) == 5, math.log(9.0), 0.0)[:, None]
    out = package.bigbird(x + 1, k, v, block=1, random_blocks=table, scale=1.0)
    close(out[5], np.array([(1 + 16 + 9 * 32 + 64) / 12]))


@law("bigbird")
def test_three_blocks_or_fewer_are_attention(package, rng):
    for n, block in [(9, 3), (8, 3), (7, 4), (5, 9), (1, 1)]:
        args, mask = qkv(rng, n), dict(key_mask=rng.random((2, 1, n)) < 0.7)
        close(package.bigbird(*args, block=block, random_blocks=table_of(rng, n, block, 2), **mask),
              package.attention(*args, **mask))


@law("bigbird")
def test_all_blocks_chosen_are_attention(package, rng):
    args = qkv(rng, 20)
    everything = np.broadcast_to(np.arange(7), (7, 7))
    close(package.bigbird(*args, block=3, random_blocks=everything), package.attention(*args))


@law("bigbird")
def test_without_its_global_and_random_blocks_it_is_local(package, rng):
    """The keys of the first and the last block hidden, the rows between them see their neighbours alone."""
    args, mask = qkv(rng, 20), dict(key_mask=(np.arange(20) >= 3) & (np.arange(20) < 18))
    none = np.zeros((7, 0), int)
    out = package.bigbird(*args, block=3, random_blocks=none, **mask)
    local = package.block_local(*args, block=3, before=1, after=1, **mask)
    close(out[..., 3:18, :], local[..., 3:18, :])
    close(out[..., :3, :], package.attention(*args, **mask)[..., :3, :])


@law("bigbird")
def test_a_block_that_is_seen_anyway_or_named_twice_counts_once(package, rng):
    args, own = qkv(rng, 20), np.arange(7)[:, None]
    plain = package.bigbird(*args, block=3, random_blocks=np.zeros((7, 0), int))
    for again in (own, 0 * own, 0 * own + 6, np.clip(own + 1, 0, 6), np.repeat(own, 4, axis=1)):
        close(package.bigbird(*args, block=3, random_blocks=again), plain)
    once = np.array([[0], [4], [5], [1], [2], [3], [0]])
    close(package.bigbird(*args, block=3, random_blocks=np.repeat(once, 3, axis=1)),
          package.bigbird(*args, block=3, random_blocks=once))


@law("bigbird")
def test_the_first_and_the_last_row_of_the_table_are_not_used(package, rng):
    args, table = qkv(rng, 20), table_of(rng, 20, 3, 2)
    out = package.bigbird(*args, block=3, random_blocks=table)
    other = table.copy()
    other[..., 0, :], other[..., -1, :] = -7, 99
    assert package.bigbird(*args, block=3, random_blocks=other).tobytes() == out.tobytes()
    assert (other[..., 0, :] == -7).all()


@law("bigbird")
@pytest.mark.parametrize("n", [19, 20, 21])
def test_a_short_last_block_is_global(package, n, rng):
    q, k, v = qkv(rng, n)
    options = dict(block=3, random_blocks=np.zeros((7, 0), int))
    out = package.bigbird(q, k, v, **options)
    # it sees everyone
    close(out[..., 18:, :], package.attention(q, k, v)[..., 18:, :])
    # and everyone sees it
    v = v.copy()
    v[..., 18:, :] += 1
    assert (package.bigbird(q, k, v, **options) != out).any(axis=(0, 1, 3)).all()


@law("bigbird")
def test_a_block_moves_the_rows_that_list_it_and_no_others(package, rng):
    (q, k, v), table = qkv(rng, 20), table_of(rng, 20, 3, 1, lead=())
    before = package.bigbird(q, k, v, block=3, random_blocks=table)
    for t in range(7):
        changed = v.copy()
        changed[..., 3 * t:3 * t + 3, :] += 1
        moved = (package.bigbird(q, k, changed, block=3, random_blocks=table) != before).any(axis=(0, 1, 3))
        assert moved.tolist() == [t in listed(i // 3, 7, table[i // 3]) for i in range(20)]


@law("bigbird_random_blocks")
@pytest.mark.parametrize("heads", [None, 1, 4])
@pytest.mark.parametrize("blocks, count", [(12, 3), (12, 0), (7, 5), (5, 3), (3, 2), (2, 1), (1, 2)])
def test_random_blocks_are_new_to_their_row_and_drawn_once(blocks, count, heads, rng):
    table = xfref.bigbird_random_blocks(rng, blocks, count, heads)
    assert table.shape == (*(() if heads is None else (heads,)), blocks, count)
    assert np.issubdtype(table.dtype, np.integer)
    for head in table[None] if heads is None else table:
        for row, chosen in enumerate(head.tolist()):
            new = [t for t in chosen if t != row]
            legal = set(range(blocks)) - listed(row, blocks, [])
            assert set(new) <= legal and len(set(new)) == len(new) == min(count, len(legal))


@law("bigbird_random_blocks")
def test_random_blocks_are_drawn_evenly_and_anew_for_each_head(rng):
    table = xfref.bigbird_random_blocks(rng, 9, 2, 3000)
    for row in range(1, 8):
        legal = sorted(set(range(9)) - listed(row, 9, []))
        found = np.bincount(table[:, row].ravel(), minlength=9)[legal]
        share = 2 / len(legal)
        # each legal block is in a head with this probability: within four standard deviations
        assert (abs(found / 3000 - share) < 4 * math.sqrt(share * (1 - share) / 3000)).all()
    same = [xfref.bigbird_random_blocks(np.random.default_rng(5), 9, 2, 3) for _ in range(2)]
    np.testing.assert_array_equal(*same)


@law("bigbird", "bigbird_random_blocks")
def test_the_draw_goes_into_the_attention(package, rng):
    args, table = qkv(rng, 20), xfref.bigbird_random_blocks(rng, 7, 2, 3)
    holds(package.bigbird, args, dict(block=3, random_blocks=table),
          lambda p, j, b, h: j // 3 in listed(p // 3, 7, table[h, p // 3]))


@pytest.mark.parametrize("args, error, words", [
    ((0, 1), ValueError, "blocks needs to be at least 1, got 0"),
    ((2.0, 1), TypeError, "blocks needs an integer, got float 2.0"),
    ((4, -1), ValueError, "count needs to be at least 0, got -1"),
    ((4, True), TypeError, "count needs an integer"),
    ((4, 1, 0), ValueError, "heads needs to be at least 1, got 0"),
    ((4, 1, "2"), TypeError, "heads needs an integer"),
])
def test_wrong_numbers_of_blocks_raise(args, error, words, rng):
    with pytest.raises(error, match=words):
        xfref.bigbird_random_blocks(rng, *args)
