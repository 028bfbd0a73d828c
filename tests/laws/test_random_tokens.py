"""Laws of random_tokens."""

import numpy as np
import pytest
from lawbook import close, holds, law, qkv

LENGTHS = [(12, 12), (7, 12), (12, 7), (1, 5)]


@law("random_tokens")
@pytest.mark.parametrize("n, m", LENGTHS)
def test_random_tokens_in_loops(package, n, m, rng):
    args, indices = qkv(rng, n, m), rng.integers(-1, m, (3, n, 4))

    def sees(p, j, b, h):
        return j in indices[h, p - m + n]

    holds(package.random_tokens, args, dict(indices=indices), sees)
    holds(package.random_tokens, args, dict(indices=indices, scale=0.3, key_mask=rng.random(m) < 0.6), sees)
    holds(package.random_tokens, args, dict(indices=indices, causal=True),
          lambda p, j, b, h: sees(p, j, b, h) and j <= p)
    per_batch = rng.integers(0, m, (2, 1, n, 3))
    holds(package.random_tokens, args, dict(indices=per_batch),
          lambda p, j, b, h: j in per_batch[b, 0, p - m + n])


@law("random_tokens")
def test_random_tokens_by_hand(package):
    q, k = np.array([[np.log(2.0)], [np.log(3.0)]]), np.array([[0.0], [1.0], [2.0]])
    v = np.array([[6.0], [12.0], [30.0]])
    # the first query weighs the keys 0 and 1 as 1 : 2, the second 1 and 2 as 3 : 9. The first, at position 1,
    # sees 2 only if it may look ahead, and weighs 0 and 2 as 1 : 4
    for causal, first in ((False, (6 + 4 * 30) / 5), (True, 6.0)):
        out = package.random_tokens(q, k, v, indices=np.array([[1, 0], [1, 2]]), scale=1.0, causal=causal)
        close(out, np.array([[10.0], [25.5]]))
        out = package.random_tokens(q, k, v, indices=np.array([[2, 0], [2, 2]]), scale=1.0, causal=causal)
        close(out, np.array([[first], [30.0]]))


@law("random_tokens")
@pytest.mark.parametrize("n, m", LENGTHS)
def test_everything_listed_is_attention_and_nothing_listed_is_zero(package, n, m, rng):
    args, mask = qkv(rng, n, m), rng.random((2, 1, m)) < 0.7
    everything = np.stack([rng.permutation(m) for _ in range(n)])
    for options in ({}, dict(causal=True), dict(key_mask=mask)):
        close(package.random_tokens(*args, indices=everything, **options),
              package.attention(*args, **options))
    for nothing in (np.zeros((n, 0), int), np.full((n, 3), -1)):
        assert not package.random_tokens(*args, indices=nothing).any()


@law("random_tokens")
def test_a_window_as_a_list_of_keys_is_a_window(package, rng):
    args = qkv(rng)
    near = np.arange(12)[:, None] + np.arange(-3, 2)
    near = np.where((near < 0) | (near > 11), -1, near)
    close(package.random_tokens(*args, indices=near), package.sliding_window(*args, left=3, right=1))


@law("random_tokens")
def test_neither_order_nor_repetition_nor_the_type_of_the_lists_matters(package, rng):
    args, indices = qkv(rng), rng.integers(0, 12, (12, 5))
    for same in (indices[:, ::-1], np.concatenate([indices, indices[:, 2:4], np.full((12, 1), -1)], axis=-1),
                 indices.astype(np.int32), np.asfortranarray(indices).astype(np.int8)):
        holds(package.random_tokens, args, dict(indices=same), lambda p, j, *_: j in indices[p])


@law("random_tokens")
def test_lists_that_the_caller_has_changed_are_read_again(package, rng):
    args, indices = qkv(rng), rng.integers(0, 12, (12, 5))
    package.random_tokens(*args, indices=indices)
    indices[:, 0] = (indices[:, 0] + 1) % 12
    holds(package.random_tokens, args, dict(indices=indices), lambda p, j, *_: j in indices[p])
