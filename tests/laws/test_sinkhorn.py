"""Laws of sparse Sinkhorn attention: balancing, attention to sorted blocks and to the first of them alone."""

import math

import numpy as np
import pytest
import scipy.optimize
import scipy.special
from lawbook import close, law, qkv


def block_slots(sort, x, block, present):
    """The sorted blocks of (n,w) slot by slot: [u][t] = (mixture, whether it is visible), in plain loops."""
    n, blocks = len(x), len(sort)
    slots = []
    for u in range(blocks):
        source = max(range(blocks), key=lambda v, u=u: (sort[u][v], -v))
        row = []
        for t in range(block):
            mixture = np.zeros(x.shape[-1])
            for v in range(blocks):
                if v * block + t < n and present[v * block + t]:
                    mixture += sort[u][v] * x[v * block + t]
            place = source * block + t
            row.append((mixture, sort[u][source] > 0 and place < n and present[place]))
        slots.append(row)
    return slots


def in_loops(q, k, v, sort, block, *, causal=False, key_mask=None, keep=None, scale=None):
    """Each query of (n,d), with the keys that it sees listed one by one."""
    n, scale = len(q), q.shape[-1] ** -0.5 if scale is None else scale
    present = np.ones(n, bool) if key_mask is None else key_mask
    if causal:
        sort = [[w if v < u else 0.0 for v, w in enumerate(row)] for u, row in enumerate(sort)]
    keys, values = (block_slots(sort, x, block, present) for x in (k, v))
    out = np.zeros((n, v.shape[-1]))
    for i in range(n):
        sorted_blocks = [i // block] if keep is None else range(min(keep, len(sort)))
        pairs = [(key, value) for u in sorted_blocks
                 for (key, visible), (value, _) in zip(keys[u], values[u], strict=True) if visible]
        if keep is None:
            own = [j for j in range(n) if j // block == i // block and present[j] and (j <= i or not causal)]
            pairs += [(k[j], v[j]) for j in own]
        weights = [math.exp(scale * (q[i] @ key)) for key, _ in pairs]
        for weight, (_, value) in zip(weights, pairs, strict=True):
            out[i] += weight * value / sum(weights)
    return out


def entries_hold(function, args, sort, **options):
    out = function(*args, sort=sort, **options)
    key_mask = options.pop("key_mask", None)
    lead = out.shape[:-2]
    sort = np.broadcast_to(sort, (*lead, *sort.shape[-2:]))
    for place in np.ndindex(lead):
        own = None if key_mask is None else np.broadcast_to(key_mask, (*lead, key_mask.shape[-1]))[place]
        close(out[place], in_loops(*(x[place] for x in args), sort[place], key_mask=own, **options))


# balancing


@law("sinkhorn_sort")
def test_balancing_by_hand(package):
    # rows of 1 1; 3 1 become 1/2 1/2; 3/4 1/4, whose columns sum to 5/4 and 3/4
    logits = np.log([[1.0, 1.0], [3.0, 1.0]])
    close(package.sinkhorn_sort(logits, iterations=1), np.array([[2 / 5, 2 / 3], [3 / 5, 1 / 3]]))
    # causal: one entry a row but in the last, whose 3 : 1 meets a whole entry above it
    logits = np.log([[9.0, 9.0, 9.0], [7.0, 9.0, 9.0], [3.0, 1.0, 9.0]])
    close(package.sinkhorn_sort(logits, iterations=1, causal=True),
          np.array([[0.0, 0.0, 0.0], [4 / 7, 0.0, 0.0], [3 / 7, 1.0, 0.0]]))


@law("sinkhorn_sort")
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("iterations", [1, 2, 7])
def test_balancing_in_loops(package, causal, iterations, rng):
    """The same with weights in place of logarithms: rows and columns divided by their sums in turn."""
    logits, noise = rng.standard_normal((2, 3, 5, 5)), rng.gumbel(size=(3, 5, 5))
    out = package.sinkhorn_sort(logits, iterations=iterations, temperature=0.75, noise=noise, causal=causal)
    for b, h in np.ndindex(2, 3):
        p = [[math.exp((logits[b, h, u, v] + noise[h, u, v]) / 0.75) if v < u or not causal else 0.0
              for v in range(5)] for u in range(5)]
        for _ in range(iterations):
            p = [[w / (sum(row) or 1) for w in row] for row in p]
            sums = [sum(column) or 1 for column in zip(*p, strict=True)]
            p = [[w / total for w, total in zip(row, sums, strict=True)] for row in p]
        close(out[b, h], np.array(p))


@law("sinkhorn_sort")
def test_columns_sum_to_one_and_rows_in_the_end(package, rng):
    logits = rng.standard_normal((2, 3, 6, 6))
    close(package.sinkhorn_sort(logits, iterations=1).sum(axis=-2), np.ones((2, 3, 6)))
    far = package.sinkhorn_sort(logits, iterations=300)
    close(far.sum(axis=-2), np.ones((2, 3, 6)))
    close(far.sum(axis=-1), np.ones((2, 3, 6)))


@law("sinkhorn_sort")
def test_what_rows_and_columns_have_in_common_does_not_matter(package, rng):
    logits, rows, columns = (rng.standard_normal(s) for s in ((5, 5), (5, 1), (1, 5)))
    close(package.sinkhorn_sort(logits + rows, iterations=1), package.sinkhorn_sort(logits, iterations=1))
    close(package.sinkhorn_sort(logits + rows + columns, iterations=300),
          package.sinkhorn_sort(logits, iterations=300))


@law("sinkhorn_sort")
def test_renaming_blocks_renames_rows_and_columns(package, rng):
    logits, rows, columns = rng.standard_normal((5, 5)), rng.permutation(5), rng.permutation(5)
    close(package.sinkhorn_sort(logits[rows][:, columns], iterations=4),
          package.sinkhorn_sort(logits, iterations=4)[rows][:, columns])


@law("sinkhorn_sort")
def test_a_low_temperature_gives_the_best_permutation(package, rng):
    logits = rng.standard_normal((6, 6))
    _, best = scipy.optimize.linear_sum_assignment(-logits)
    sort = package.sinkhorn_sort(logits, iterations=2000, temperature=0.01)
    close(sort, np.eye(6)[best], 1e-3)


@law("sinkhorn_sort")
def test_balancing_stays_in_logarithms(package, rng):
    for size in (1e3, 1e30):
        for dtype in (np.float32, np.float64):
            sort = package.sinkhorn_sort((size * rng.standard_normal((5, 5))).astype(dtype), iterations=3)
            assert sort.dtype == dtype and np.isfinite(sort).all()
            np.testing.assert_allclose(sort.sum(axis=0), np.ones(5), rtol=1e-5)


@law("sinkhorn_sort")
def test_causal_balancing_is_that_of_the_corner_without_its_empty_row_and_column(package, rng):
    logits = rng.standard_normal((6, 6))
    sort = package.sinkhorn_sort(logits, iterations=9, causal=True)
    assert not np.triu(sort).any()
    close(sort[:, :5].sum(axis=0), np.ones(5))
    corner = np.where(np.tri(5, dtype=bool), logits[1:, :5], -np.inf)
    for _ in range(9):
        for axis in (-1, -2):
            corner = corner - scipy.special.logsumexp(corner, axis=axis, keepdims=True)
    close(sort[1:, :5], np.exp(corner))


@law("sinkhorn_sort")
def test_causal_balancing_looks_ahead(package, rng):
    """No fault of the code: the sums of columns run over later rows. Logits of the future change the past."""
    logits = rng.standard_normal((4, 4))
    before = package.sinkhorn_sort(logits, iterations=2, causal=True)
    logits[3] += rng.standard_normal(4)
    after = package.sinkhorn_sort(logits, iterations=2, causal=True)
    assert np.abs(after - before)[1:3].max() > 1e-3


# attention to sorted blocks


@law("sinkhorn")
def test_sinkhorn_by_hand(package):
    q, v = np.zeros((4, 1)), np.array([[1.0], [3.0], [5.0], [11.0]])
    sort = np.array([[0.0, 1.0], [0.5, 0.5]])
    # the second block sees (1 + 5) / 2, (3 + 11) / 2, 5 and 11
    close(package.sinkhorn(q, q, v, sort=sort, block=2), np.array([[5.0], [5.0], [6.5], [6.5]]))
    # causal: the first sees its own past, the second half of the first block and its own past
    close(package.sinkhorn(q, q, v, sort=sort, block=2, causal=True),
          np.array([[1.0], [2.0], [(0.5 + 1.5 + 5) / 3], [(0.5 + 1.5 + 5 + 11) / 4]]))


@law("sinkhorn")
@pytest.mark.parametrize("n, block", [(12, 4), (11, 4), (9, 1), (7, 7), (5, 20)])
@pytest.mark.parametrize("causal", [False, True])
def test_sinkhorn_in_loops(package, n, block, causal, rng):
    args, blocks = qkv(rng, n), -(-n // min(block, n))
    options = dict(block=min(block, n), causal=causal)
    for lead in ((), (3,), (2, 1), (2, 3)):
        entries_hold(package.sinkhorn, args, rng.random((*lead, blocks, blocks)), **options)
    sort = package.sinkhorn_sort(rng.standard_normal((blocks, blocks)), iterations=5, causal=causal)
    entries_hold(package.sinkhorn, args, sort, scale=0.3, **options)
    for key_mask in (rng.random(n) < 0.6, rng.random((2, 1, n)) < 0.6, rng.random((2, 3, n)) < 0.4):
        entries_hold(package.sinkhorn, args, rng.random((3, blocks, blocks)), key_mask=key_mask, **options)


@law("sinkhorn")
def test_blocks_sorted_to_their_own_place_are_local_attention(package, rng):
    """Every key twice, or once, weighs the same."""
    for n in (12, 10):
        args, mask = qkv(rng, n), rng.random((2, 1, n)) < 0.6
        for sort in (np.eye(3), np.zeros((3, 3))):
            close(package.sinkhorn(*args, sort=sort, block=4, key_mask=mask),
                  package.block_local(*args, block=4, key_mask=mask))
        # none is sorted to its own place if causal
        close(package.sinkhorn(*args, sort=np.eye(3), block=4, causal=True),
              package.block_local(*args, block=4, causal=True))


@law("sinkhorn")
def test_a_permutation_brings_whole_blocks(package, rng):
    args, order = qkv(rng), np.array([2, 0, 1])
    place = np.arange(12) // 4
    for causal in (False, True):
        own = place[:, None] == place
        mask = own | ((order[place][:, None] == place) & ((place[:, None] > place) | (not causal)))
        close(package.sinkhorn(*args, sort=np.eye(3)[order], block=4, causal=causal),
              package.attention(*args, mask=mask & (np.tri(12, dtype=bool) | ~own | (not causal))))


@law("sinkhorn")
def test_the_block_before_is_a_sort_too(package, rng):
    args = qkv(rng)
    for causal in (False, True):
        close(package.sinkhorn(*args, sort=np.eye(3, k=-1), block=4, causal=causal),
              package.block_local(*args, block=4, before=1, causal=causal))


@law("sinkhorn", "sinkhorn_cut")
def test_one_block_is_attention(package, rng):
    args, one = qkv(rng), np.ones((1, 1))
    close(package.sinkhorn(*args, sort=one, block=12), package.attention(*args))
    close(package.sinkhorn(*args, sort=one, block=12, causal=True), package.attention(*args, causal=True))
    close(package.sinkhorn_cut(*args, sort=one, block=12, keep=1), package.attention(*args))


@law("sinkhorn", "sinkhorn_cut")
def test_sorted_values_come_from_values(package, rng):
    """A public implementation takes them from the sorted keys."""
    q, _, v = qkv(rng)
    k = np.zeros((2, 3, 12, 4))
    first = v[..., 8:, :].mean(axis=-2, keepdims=True)
    out = package.sinkhorn(q, k, v, sort=np.eye(3)[::-1], block=4)
    own = v[..., :4, :].mean(axis=-2, keepdims=True)
    close(out[..., :4, :], np.broadcast_to((first + own) / 2, (2, 3, 4, 5)))
    close(package.sinkhorn_cut(q, k, v, sort=np.eye(3)[::-1], block=4, keep=1),
          np.broadcast_to(first, (2, 3, 12, 5)))


@law("sinkhorn")
def test_causal_never_uses_a_source_from_the_own_place_on(package, rng):
    args, sort = qkv(rng), rng.random((3, 3))
    close(package.sinkhorn(*args, sort=sort + 5 * np.triu(np.ones((3, 3))), block=4, causal=True),
          package.sinkhorn(*args, sort=np.tril(sort, -1), block=4, causal=True))


@law("sinkhorn", "sinkhorn_cut")
def test_a_slot_takes_the_mask_of_its_largest_source(package):
    q, v = np.zeros((4, 1)), np.array([[2.0], [4.0], [6.0], [8.0]])
    sort, mask = np.array([[0.75, 0.25], [0.5, 0.5]]), np.array([True, False, True, True])
    # first block: the second slot comes from 1, which is hidden; what is left of it in the mixture is zero
    close(package.sinkhorn_cut(q, q, v, sort=sort, block=2, keep=1, key_mask=mask),
          np.full((4, 1), 1.5 + 1.5))
    # level sources: the first counts
    close(package.sinkhorn(q, q, v, sort=sort, block=2, key_mask=mask),
          np.array([[2.5], [2.5], [(4.0 + 6 + 8) / 3], [6.0]]))
    # the other way round: 1 is not in the largest source, so its slot is seen, with 0 for its part
    sort = sort[:, ::-1].copy()
    close(package.sinkhorn_cut(q, q, v, sort=sort, block=2, keep=1, key_mask=mask),
          np.full((4, 1), (0.5 + 4.5 + 6) / 2))


@law("sinkhorn", "sinkhorn_cut")
def test_tokens_may_be_renamed_within_all_blocks_alike(package, rng):
    q, k, v = qkv(rng)
    order = (np.arange(3)[:, None] * 4 + rng.permutation(4)).ravel()
    sort, mask = rng.random((3, 3)), rng.random(12) < 0.6
    for function, options in ((package.sinkhorn, {}), (package.sinkhorn_cut, dict(keep=2))):
        close(function(*(x[..., order, :] for x in (q, k, v)), sort=sort, block=4, key_mask=mask[order],
                       **options),
              function(q, k, v, sort=sort, block=4, key_mask=mask, **options)[..., order, :])


@law("sinkhorn", "sinkhorn_cut")
def test_everything_hidden_gives_zeros(package, rng):
    args, sort, mask = qkv(rng), rng.random((3, 3)), np.zeros(12, bool)
    assert not package.sinkhorn(*args, sort=sort, block=4, key_mask=mask).any()
    assert not package.sinkhorn_cut(*args, sort=sort, block=4, keep=2, key_mask=mask).any()
    assert not package.sinkhorn_cut(*args, sort=np.zeros((3, 3)), block=4, keep=2).any()


# the first sorted blocks alone


@law("sinkhorn_cut")
@pytest.mark.parametrize("n, block", [(12, 4), (11, 4), (9, 1), (7, 7)])
@pytest.mark.parametrize("keep", [1, 2, 99])
def test_sinkhorn_cut_in_loops(package, n, block, keep, rng):
    args, blocks = qkv(rng, n), -(-n // block)
    for lead in ((), (3,), (2, 1)):
        entries_hold(package.sinkhorn_cut, args, rng.random((*lead, blocks, blocks)), block=block, keep=keep)
    for key_mask in (rng.random(n) < 0.6, rng.random((2, 1, n)) < 0.6, rng.random((2, 3, n)) < 0.4):
        entries_hold(package.sinkhorn_cut, args, rng.random((3, blocks, blocks)), block=block, keep=keep,
                     key_mask=key_mask, scale=0.3)


@law("sinkhorn_cut")
def test_all_blocks_of_a_permutation_are_attention(package, rng):
    args, mask = qkv(rng), rng.random((2, 1, 12)) < 0.6
    sort = np.eye(3)[[1, 2, 0]]
    close(package.sinkhorn_cut(*args, sort=sort, block=4, keep=3, key_mask=mask),
          package.attention(*args, key_mask=mask))
    q, k, v = args
    close(package.sinkhorn_cut(*args, sort=sort, block=4, keep=1),
          package.attention(q, k[..., 4:8, :], v[..., 4:8, :]))


@law("sinkhorn_cut")
def test_only_the_rows_that_are_kept_matter(package, rng):
    args, sort = qkv(rng), rng.random((3, 3))
    other = sort.copy()
    other[2] = rng.random(3)
    close(package.sinkhorn_cut(*args, sort=other, block=4, keep=2),
          package.sinkhorn_cut(*args, sort=sort, block=4, keep=2))
