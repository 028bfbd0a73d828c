"""The face of the scan engine: attention by features from arrays, whole or step by step."""

import functools
import math

import numpy as np

from xfaccel.arrays import (
    check_array,
    check_key_mask,
    describe,
    distinct,
    empty,
    leading,
    lengths,
    parameter,
    rows,
    scale_or_default,
    sum_dtype,
)
from xfaccel.engine.cpu import scan as cpu
from xfaccel.engine.cpu import steps
from xfaccel.engine.tiles import TILE

Array = np.ndarray
_PART = 8 * TILE   # tokens in the shortest part of a sequence that is worth a thread of its own
_ITEMS = 8         # parts of all leading entries together, about: more threads find nothing to do
_FEW = 8           # tokens that cost less one by one than as a chunk

KINDS = {"positive": cpu.POSITIVE, "hyperbolic": cpu.HYPERBOLIC, "trigonometric": cpu.TRIGONOMETRIC,
         "relu": cpu.RELU}


def attend(q: Array, k: Array, v: Array, *, causal: bool, key_mask: Array | None = None,
           features: str | None = None, projection: Array | None = None, scale: float | None = None) -> Array:
    """Attention with the weights f(q) . f(k): elu + 1 features, or those that `features` names.

    (...,n,d),(...,m,d),(...,m,e) -> (...,n,e). `projection` (lead..., r, d), x' = sqrt(scale) x; elu + 1 has
    neither.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O((n + m) f (d + e)) time for f features, O(f e) memory for each set of keys.
    """
    n, m = lengths(q, k, v)
    lead, e = leading(q, k, v), v.shape[-1]
    masks = [] if key_mask is None else [check_key_mask(key_mask, k, lead)[..., None, :]]
    shared, directions = _shared(q, v, lead, features, projection, scale)
    if type(q) is not np.ndarray:
        return _on_gpu(q, k, v, lead, causal, None if key_mask is None else masks[0][..., 0, :], features,
                       directions, shared)
    # heads that share their keys share the sums over them
    key_side = [distinct(x) for x in (k, v, *masks, *directions)]
    key_lead = leading(*key_side)
    keys = dict(k=rows(key_side[0], key_lead), v=rows(key_side[1], key_lead))
    if masks:
        keys["key_mask"] = rows(key_side[2], key_lead, dense=False)
    out = empty((*lead, n, e), q.dtype, q)

    if not causal and math.prod(lead) >= _ITEMS and math.prod(key_lead) == math.prod(lead):
        # enough to share out without parts: one pass over keys and queries
        cpu.run(cpu.WHOLE, np.array([[0, m], [0, n]]), lead, q=rows(q, lead), out=rows(out, lead), **keys,
                **shared, projection=rows(directions[0], lead) if directions else None)
        return out
    # the keys that come before any query, then, if causal, those that come one by one with the queries
    before, blind = (max(m - n, 0), max(n - m, 0)) if causal else (m, 0)
    skip, sums, steps = _parts(before, m, key_lead, lead)
    out[..., :blind, :] = 0
    states = np.empty((math.prod(key_lead), len(sums), cpu.state_numbers(shared["features"], e)), q.dtype)
    cpu.run(cpu.SUM, sums, key_lead, end=rows(states.reshape(*key_lead, *states.shape[1:]), key_lead), **keys,
            **shared, projection=rows(directions[0], key_lead) if directions else None)
    begin = _running(states, skip, shared["features"], e)
    begin = rows(begin.reshape(*key_lead, *begin.shape[1:]), lead)
    operands = dict(q=rows(q, lead), out=rows(out, lead), begin=begin, **shared,
                    projection=rows(directions[0], lead) if directions else None)
    if causal:
        keys = dict(k=rows(k, lead), v=rows(v, lead))
        if masks:
            keys["key_mask"] = rows(masks[0], lead, dense=False)
        cpu.run(cpu.CAUSAL, steps, lead, shift=n - m, **keys, **operands)
    else:
        cpu.run(cpu.READ, _ranges(0, n, lead), lead, **operands)
    return out


def step(state: tuple[Array, ...] | None, q: Array, k: Array, v: Array, *, features: str | None = None,
         projection: Array | None = None,
         scale: float | None = None) -> tuple[tuple[Array, ...], Array]:
    """The next tokens of a causal sequence: the new state and their outputs.

    The state is (s, z) of shapes (..., f, e) and (..., f), and for the kinds with exponents also the largest
    exponent of each feature (..., f).

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O(c f (d + e)) time, O(f e) memory.
    """
    c, _ = lengths(q, k, v, equal=True)
    lead, e = leading(q, k, v), v.shape[-1]
    shared, directions = _shared(q, v, lead, features, projection, scale)
    count, padded, exponents = shared["features"], -(-e // TILE) * TILE, features is not None
    if state is not None:
        _check_state(state, 2 + exponents, (*lead, count, e), sum_dtype(q))
    if type(q) is not np.ndarray:
        return _step_on_gpu(state, q, k, v, lead, features, directions, shared)
    out = empty((*lead, c, e), q.dtype, q)
    operands = dict(q=rows(q, lead), k=rows(k, lead), v=rows(v, lead), out=rows(out, lead), **shared,
                    projection=rows(directions[0], lead) if directions else None)
    if c <= _FEW:
        sums = (*lead, count)
        new = [np.zeros((*sums, e), q.dtype), np.zeros(sums, q.dtype), np.full(sums, -np.inf, q.dtype)]
        if state is not None:
            new[:len(state)] = [x.copy() for x in state]
        steps.run(c, entries=math.prod(lead), s=new[0], z=new[1], top=new[2], **operands)
        return tuple(new[:2 + exponents]), out
    memory = np.empty((*lead, 1, cpu.state_numbers(count, e)), q.dtype)
    s, z, top = _views(memory, count, e)
    if state is None:
        s[...], z[...], top[...] = 0, 0, -np.inf
    else:
        s[..., 0, :, :e], z[..., 0, :] = state[:2]
        if e < padded:
            s[..., e:] = 0
        top[..., 0, :] = state[2] * q.dtype.type(math.log2(math.e)) if exponents else -np.inf
    places = rows(memory, lead)
    cpu.run(cpu.CAUSAL, np.array([[0, c]], np.int64), lead, begin=places, end=places, **operands)
    new = s[..., 0, :, :e].copy(), z[..., 0, :].copy()
    if exponents:
        new += (top[..., 0, :] * q.dtype.type(math.log(2)),)
    return new, out


def _on_gpu(q: Array, k: Array, v: Array, lead: tuple[int, ...], causal: bool, key_mask: Array | None,
            features: str | None, directions: list[Array], shared: dict) -> Array:
    """`attend` on a GPU: by its kernel, or for more features than that holds by matrix products."""
    from xfaccel.engine.gpu import features as made  # most processes do without
    from xfaccel.engine.gpu import launch, run
    n, (m, e), count, given = q.shape[-2], v.shape[-2:], shared["features"], features is not None
    kinds = dict(kind=features, root=shared["root"], projection=distinct(directions[0]) if given else None)
    if count > launch.FEATURES[-1]:
        return made.attend(q, k, v, lead, causal=causal, key_mask=key_mask, **kinds)[0]
    out, shared = empty((*lead, n, e), q.dtype, q), dict(d=count, e=e, dtype=q.dtype, given=given)
    blocks, exponent = launch.scan_blocks(launch.name(q.dtype), count, given), None
    if given:
        (q, _), (k, exponent) = (made.of_rows(distinct(x), **kinds) for x in (q, k))
    # heads that share their keys share the sums over them
    of_keys = dict(k=distinct(k), v=distinct(v)) | {
        name: distinct(x[..., None, :]) for name, x in (("key_mask", key_mask), ("exponent", exponent))
        if x is not None}
    key_lead = leading(*of_keys.values())

    def keys(lead):
        return {name: rows(x, lead, dense=name in ("k", "v")) for name, x in of_keys.items()}

    before, blind = (max(m - n, 0), max(n - m, 0)) if causal else (m, 0)
    skip, sums, steps = _parts(before, m, key_lead, lead, blocks)
    begin = None
    if len(sums):
        states = empty((*key_lead, len(sums), count * (e + 1) + given), sum_dtype(v), v)
        run.scan("sum", sums, key_lead, **keys(key_lead), end=rows(states, key_lead), **shared)
        starts = empty((*key_lead, len(sums) - skip + 1, states.shape[-1]), states.dtype, v)
        run.running(states, starts, skip, given=given)
        begin = rows(starts, lead)
    operands = dict(q=rows(q, lead), out=rows(out, lead), **shared)
    if blind:
        out[..., :blind, :] = 0
    if causal:
        run.scan("causal", steps, lead, **keys(lead), begin=begin, shift=n - m, **operands)
    else:
        whole = begin and begin._replace(row=0)  # one state, for all parts
        run.scan("read", _ranges(0, n, lead, blocks), lead, begin=whole, **operands)
    return out


def _step_on_gpu(state: tuple[Array, ...] | None, q: Array, k: Array, v: Array, lead: tuple[int, ...],
                 features: str | None, directions: list[Array], shared: dict
                 ) -> tuple[tuple[Array, ...], Array]:
    """`step` on a GPU: elu + 1 by its kernel, the rest by matrix products.

    A state of the kernel has one exponent for all features, that of a step one for each.
    """
    from xfaccel.engine.gpu import features as made  # most processes do without
    from xfaccel.engine.gpu import launch, run
    c, count, e = q.shape[-2], shared["features"], v.shape[-1]
    if features is None and count <= launch.FEATURES[-1]:
        out, sums = empty((*lead, c, e), q.dtype, q), count * e
        end, begin = empty((*lead, 1, sums + count), sum_dtype(q), q), None
        if state is not None:
            flat = state[0].reshape(*lead, 1, sums), state[1][..., None, :]
            begin = rows(np.concatenate(flat, axis=-1), lead)
        run.scan("causal", np.array([[0, c]]), lead, q=rows(q, lead), k=rows(k, lead), v=rows(v, lead),
                 out=rows(out, lead), begin=begin, end=rows(end, lead), d=count, e=e, dtype=q.dtype)
        return (end[..., 0, :sums].reshape(*lead, count, e), end[..., 0, sums:]), out
    parts = 2 + (features is not None)
    if state is not None and parts == 2:  # elu + 1 has no exponents
        state = *state, np.zeros_like(state[1])
    out, new = made.attend(q, k, v, lead, causal=True, kind=features, root=shared["root"], state=state,
                           projection=directions[0] if directions else None)
    wide = [np.broadcast_to(x, (*lead, *x.shape[len(x.shape) - own:]))
            for x, own in zip(new[:parts], (2, 1, 1), strict=False)]
    return tuple(x.copy() for x in wide), out


def _shared(q: Array, v: Array, lead: tuple[int, ...], features: str | None, projection: Array | None,
            scale: float | None) -> tuple[dict, list[Array]]:
    """What every pass of a call is told, and the projection, if the features have one."""
    d, e = q.shape[-1], v.shape[-1]
    if features is None:
        return dict(d=d, e=e, dtype=q.dtype, kind=None, features=d, root=1.0), []
    kind = KINDS[features]
    projection = parameter("projection", projection, sum_dtype(q), own=(None, d), lead=lead)
    if projection.shape[-2] == 0:
        raise ValueError("projection needs at least 1 row, got 0")
    root = math.sqrt(scale_or_default(scale, q, positive=True))
    count = projection.shape[-2] * (2 if kind in (cpu.HYPERBOLIC, cpu.TRIGONOMETRIC) else 1)
    return dict(d=d, e=e, dtype=q.dtype, kind=kind, features=count, root=root), [projection]


def _parts(before: int, m: int, key_lead: tuple[int, ...], lead: tuple[int, ...], items: int = _ITEMS
           ) -> tuple[int, Array, Array]:
    """The parts of the keys that are added up, and of those from `before` on that queries go through.

    Also how many of the first come before any query.
    """
    return _parts_of(before, m, _per_entry(key_lead, items), _per_entry(lead, items), _PART)


@functools.lru_cache(128)
def _parts_of(before: int, m: int, key_parts: int, parts: int, shortest: int) -> tuple[int, Array, Array]:
    prefix, steps = _cut(0, before, key_parts, shortest), _cut(before, m, parts, shortest)
    sums = np.concatenate([prefix, steps[:-1]])
    sums.setflags(write=False)
    return len(prefix), sums, steps


def _ranges(first: int, stop: int, lead: tuple[int, ...], items: int = _ITEMS) -> Array:
    """The tokens first .. stop - 1 cut into parts of whole chunks; the cut depends on the shapes alone."""
    return _cut(first, stop, _per_entry(lead, items), _PART)


def _per_entry(lead: tuple[int, ...], items: int) -> int:
    return -(-items // max(math.prod(lead), 1))


@functools.lru_cache(128)  # so that a GPU gets a copy once
def _cut(first: int, stop: int, parts: int, shortest: int) -> Array:
    length = max(stop - first, 0)
    parts = max(1, min(parts, length // shortest))
    size = max(-(-length // (parts * TILE)) * TILE, TILE)
    begin = np.arange(first, max(stop, first), size, dtype=np.int64)
    ranges = np.stack([begin, np.minimum(begin + size, stop)], axis=-1).reshape(-1, 2)
    ranges.setflags(write=False)
    return ranges


def _running(states: Array, skip: int, features: int, e: int) -> Array:
    """The states before part `skip`, before the part after it, and so on to the end: their running sums."""
    entries, parts, number = states.shape
    begin = np.zeros((entries, parts - skip + 1, number), states.dtype)
    sums = _views(begin, features, e)
    sums[2][...] = -np.inf
    total = [x[:, 0].copy() for x in sums]
    for part in range(parts):
        if part >= skip:
            _store(sums, part - skip, total)
        total = _add(total, [x[:, part] for x in _views(states, features, e)])
    _store(sums, parts - skip, total)
    return begin


def _store(sums: tuple[Array, ...], place: int, total: list[Array]) -> None:
    for x, value in zip(sums, total, strict=True):
        x[:, place] = value


def _add(a: list[Array], b: list[Array]) -> list[Array]:
    """The state of two stretches of keys together."""
    top = np.maximum(a[2], b[2])
    if np.isneginf(top).all():  # no exponents: nothing has to shrink
        return [a[0] + b[0], a[1] + b[1], top]
    reference = np.where(np.isneginf(top), 0, top)
    by_a, by_b = np.exp2(a[2] - reference), np.exp2(b[2] - reference)
    s = a[0] * by_a[..., None]
    s += b[0] * by_b[..., None]
    return [s, a[1] * by_a + b[1] * by_b, top]


def _views(states: Array, features: int, e: int) -> tuple[Array, Array, Array]:
    """s (..., f, e up to a multiple of 64), z and top (..., f) of states (..., number)."""
    width = -(-e // TILE) * TILE
    s, z, top = np.split(states, [features * width, features * (width + 1)], axis=-1)
    return s.reshape(*states.shape[:-1], features, width), z, top


def _check_state(state: object, parts: int, own: tuple[int, ...], dtype: np.dtype) -> None:
    if not isinstance(state, tuple) or len(state) != parts:
        raise TypeError(f"state needs None or the tuple of {parts} arrays that a step returned, "
                        f"got {describe(state)}")
    for place, x in enumerate(state):
        check_array(f"state[{place}]", x, dtype=dtype)
        wanted = own if place == 0 else own[:-1]
        if x.shape != wanted:
            raise ValueError(f"state[{place}] needs the shape {wanted}, got {x.shape}")
