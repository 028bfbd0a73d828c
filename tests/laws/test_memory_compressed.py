"""Laws of memory-compressed attention: blocks of keys as slots, and what a query may see of them."""

import tracemalloc

import numpy as np
import pytest
from cases import kernels, null_slot
from lawbook import close, law, loops, qkv

import xfaccel

LENGTHS = [(12, 12), (7, 12), (12, 7), (13, 20), (1, 5)]


def slots_in_loops(x, kernel, key_mask):
    """The slots of (m, w), position by position, and which of them hold an unmasked one."""
    c, slots, known = len(kernel), [], []
    for start in range(0, len(x), c):
        inside = [j for j in range(start, min(start + c, len(x))) if key_mask is None or key_mask[j]]
        slots.append([sum(x[j, a] * kernel[j - start, a, b] for j in inside for a in range(x.shape[1]))
                      for b in range(x.shape[1])])
        known.append(bool(inside))
    return np.array(slots, float), known


@law("memory_compressed")
@pytest.mark.parametrize("n, m", LENGTHS)
@pytest.mark.parametrize("c", [1, 2, 3, 5, 30])
def test_memory_compressed_in_loops(package, n, m, c, rng):
    args, own, key_mask = qkv(rng, n, m), kernels(rng, 4, 5, c=c), rng.random((2, 1, m)) < 0.4
    nulls = null_slot(rng, 4, 5)
    for causal, mask, null in ((False, None, {}), (True, None, {}), (False, key_mask, {}),
                               (True, key_mask, {}), (False, None, nulls), (True, key_mask, nulls)):
        out = package.memory_compressed(*args, **own, **null, causal=causal, key_mask=mask, scale=0.7)
        for place in np.ndindex(2, 3):
            q, k, v = (x[place] for x in args)
            known = None if mask is None else mask[place[0], 0]
            keys, has_keys = slots_in_loops(k, own["key_kernel"], known)
            values, _ = slots_in_loops(v, own["value_kernel"], known)
            if null:
                keys, values = np.vstack([null["null_key"], keys]), np.vstack([null["null_value"], values])

            def sees(p, slot, keys=keys, has_keys=has_keys, causal=causal, null=null):
                position, t = p - len(keys) + m, slot - len(null) // 2
                return t < 0 or (has_keys[t] and (not causal or t * c + c - 1 <= position))

            close(out[place], loops(q, keys, values, sees, scale=0.7))


@law("memory_compressed")
def test_memory_compressed_by_hand(package):
    k, v = np.log([[2.0], [3.0], [5.0], [7.0]]), np.array([[1.0], [2.0], [3.0], [4.0]])
    key_kernel, value_kernel = np.array([[[1.0]], [[1.0]]]), np.array([[[1.0]], [[10.0]]])
    own = dict(key_kernel=key_kernel, value_kernel=value_kernel)
    # slots with the keys log 6 and log 35, and the values 21 and 43
    out = package.memory_compressed(np.ones((1, 1)), k, v, **own)
    close(out, np.array([[(6 * 21 + 35 * 43) / 41]]))
    # without the last key its slot holds log 5 and 3
    out = package.memory_compressed(np.ones((1, 1)), k[:3], v[:3], **own)
    close(out, np.array([[(6 * 21 + 5 * 3) / 11]]))
    # causal: a slot opens at the position of its last key; the null slot weighs 1 and is always open
    null = dict(null_key=np.zeros((1, 1)), null_value=np.full((1, 1), 7.0))
    out = package.memory_compressed(np.ones((4, 1)), k, v, **own, **null, causal=True)
    half = (7 + 6 * 21) / 7
    close(out, np.array([[7.0], [half], [half], [(7 + 6 * 21 + 35 * 43) / 42]]))


@law("memory_compressed")
@pytest.mark.parametrize("n, m", LENGTHS)
def test_blocks_of_one_with_identities_are_attention(package, n, m, rng):
    args, mask = qkv(rng, n, m), dict(key_mask=rng.random((2, 1, m)) < 0.7)
    eyes = dict(key_kernel=np.eye(4)[None], value_kernel=np.eye(5)[None])
    for options in ({}, mask, dict(causal=True), mask | dict(causal=True), dict(scale=0.3)):
        close(package.memory_compressed(*args, **eyes, **options), package.attention(*args, **options))


@law("memory_compressed")
def test_a_kernel_that_picks_a_key_is_attention_to_these_keys(package, rng):
    q, k, v = qkv(rng, 12, 12)
    for place in range(3):
        pick = np.zeros((3, 1, 1))
        pick[place] = 1
        close(package.memory_compressed(q, k, v, key_kernel=pick * np.eye(4), value_kernel=pick * np.eye(5)),
              package.attention(q, k[..., place::3, :], v[..., place::3, :]))


@law("memory_compressed")
@pytest.mark.parametrize("n, m", [(12, 12), (7, 14), (9, 4)])
def test_kernels_that_mix_no_widths_are_a_linformer(package, n, m, rng):
    args, (e, f) = qkv(rng, n, m), rng.standard_normal((2, 3))
    projections = np.zeros((2, -(-m // 3), m))
    for j in range(m):
        projections[:, j // 3, j] = e[j % 3], f[j % 3]
    close(package.memory_compressed(*args, key_kernel=e[:, None, None] * np.eye(4),
                                    value_kernel=f[:, None, None] * np.eye(5)),
          package.linformer(*args, key_projection=projections[0], value_projection=projections[1]))


@law("memory_compressed")
def test_causal_rows_before_the_end_of_the_first_block_see_the_null_slot_or_nothing(package, rng):
    args, own, null = qkv(rng, 12, 12), kernels(rng, 4, 5, c=4), null_slot(rng, 4, 5, (3,))
    out = package.memory_compressed(*args, **own, causal=True)
    assert not out[..., :3, :].any() and out[..., 3:, :].any(axis=-1).all()
    out = package.memory_compressed(*args, **own, **null, causal=True)
    close(out[..., :3, :], np.broadcast_to(null["null_value"], (2, 3, 3, 5)))
    assert (np.abs(out[..., 3:, :] - null["null_value"]) > 1e-3).any(axis=-1).all()


@law("memory_compressed")
def test_a_block_is_seen_from_its_last_position_on(package, rng):
    """The counterpart of causality: n < m, blocks of 3, the last of them short and never complete."""
    q, k, v = qkv(rng, 11, 14)
    own = kernels(rng, 4, 5)
    before = package.memory_compressed(q, k, v, **own, causal=True)
    for place in range(14):
        changed = v.copy()
        changed[..., place, :] += 1
        after = package.memory_compressed(q, k, changed, **own, causal=True)
        moved = (after != before).any(axis=(0, 1, 3))
        assert moved.tolist() == [place // 3 * 3 + 2 <= i + 3 for i in range(11)]


@law("memory_compressed")
def test_masked_keys_are_zeros_and_a_block_of_them_is_hidden(package, rng):
    q, k, v = qkv(rng, 9, 12)
    own, mask = kernels(rng, 4, 5), np.arange(12) % 3 != 1
    close(package.memory_compressed(q, k, v, **own, key_mask=mask),
          package.memory_compressed(q, k * mask[:, None], v * mask[:, None], **own))
    close(package.memory_compressed(q, k, v, **own, key_mask=np.arange(12) // 3 != 1),
          package.memory_compressed(q, np.delete(k, range(3, 6), axis=-2), np.delete(v, range(3, 6), axis=-2),
                                    **own))
    # a padded suffix, in the middle of a block, is a shorter sequence
    close(package.memory_compressed(q, k, v, **own, key_mask=np.arange(12) < 8),
          package.memory_compressed(q, k[..., :8, :], v[..., :8, :], **own))


@law("memory_compressed")
def test_with_everything_hidden_the_null_slot_or_nothing_is_left(package, rng):
    args, own, null = qkv(rng, 9, 11), kernels(rng, 4, 5), null_slot(rng, 4, 5)
    hidden = np.array([[[False] * 11], [[True] * 11]])
    out, full = (package.memory_compressed(*args, **own, **mask) for mask in (dict(key_mask=hidden), {}))
    assert not out[0].any()
    close(out[1], full[1])
    alone = package.memory_compressed(*args, **own, **null, key_mask=hidden)[0]
    close(alone, np.broadcast_to(null["null_value"], (3, 9, 5)))
    no_keys = package.memory_compressed(args[0], args[1][..., :0, :], args[2][..., :0, :], **own, **null)
    close(no_keys, np.broadcast_to(null["null_value"], (2, 3, 9, 5)))


@law("memory_compressed")
def test_a_visible_nan_reaches_the_rows_that_see_its_block(package, rng):
    q, k, v = qkv(rng, 12, 12)
    for x in (k, v):
        clean, x[..., 4, :] = x[..., 4, :].copy(), np.nan
        assert np.isnan(package.memory_compressed(q, k, v, **kernels(rng, 4, 5))).all()
        x[..., 4, :] = clean


@law("memory_compressed")
def test_what_a_broadcast_axis_repeats_is_compressed_once(rng):
    q = rng.standard_normal((1, 8), np.float32)  # the axis is that of k and v alone
    single = [rng.standard_normal((1000, 8), np.float32) for _ in range(2)]
    k, v = (np.broadcast_to(x, (500, *x.shape)) for x in single)
    options = kernels(rng, 8, 8) | dict(key_mask=rng.random(1000) < 0.5)
    out = xfaccel.memory_compressed(q, k, v, **options)
    once = xfaccel.memory_compressed(q, *single, **options)
    np.testing.assert_array_equal(out, np.broadcast_to(once, (500, 1, 8)), strict=True)
    tracemalloc.start()
    try:
        xfaccel.memory_compressed(q, k, v, **options)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20 * single[0].nbytes
