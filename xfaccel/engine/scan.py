"""The face of the scan engine: attention by features from arrays, whole or step by step."""

import math

import numpy as np

from xfaccel.arrays import check_array, check_key_mask, describe, empty, leading, lengths, parameter, rows
from xfaccel.engine.cpu import scan as cpu
from xfaccel.engine.cpu.scan import CAUSAL, HYPERBOLIC, POSITIVE, READ, RELU, SUM, TRIGONOMETRIC
from xfaccel.engine.tiles import TILE

Array = np.ndarray
_PART = 8 * TILE   # tokens in the shortest part of a sequence that is worth a thread of its own
_ITEMS = 32        # parts of all leading entries together, about: enough for any number of threads

KINDS = {"positive": POSITIVE, "hyperbolic": HYPERBOLIC, "trigonometric": TRIGONOMETRIC, "relu": RELU}


def attend(q: Array, k: Array, v: Array, *, causal: bool, key_mask: Array | None = None,
           features: str | None = None, projection: Array | None = None, scale: float = 1.0) -> Array:
    """Attention with the weights f(q) . f(k): elu + 1 features, or those that `features` names.

    (...,n,d),(...,m,d),(...,m,e) -> (...,n,e). `projection` (lead..., r, d), x' = sqrt(scale) x.

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O((n + m) f (d + e)) time for f features, O(f e) memory.
    """
    n, m = lengths(q, k, v)
    lead = leading(q, k, v)
    e, entries = v.shape[-1], math.prod(lead)
    out = empty((*lead, n, e), q.dtype)
    shared = _shared(q, v, lead, features, projection, scale)
    operands = dict(k=rows(k, lead), v=rows(v, lead), **shared)
    if key_mask is not None:
        operands["key_mask"] = rows(check_key_mask(key_mask, k, lead)[..., None, :], lead, dense=False)
    number = cpu.state_numbers(shared["features"], e)
    if causal:
        # the keys before the first query's own, then the keys that come one by one with the queries
        before, blind = max(m - n, 0), max(n - m, 0)
        prefix, steps = _ranges(0, before, entries), _ranges(before, m, entries)
        out[..., :blind, :] = 0
        sums = np.concatenate([prefix, steps[:-1]])
        states = np.empty((entries, len(sums), number), q.dtype)
        cpu.run(SUM, sums, q=None, out=None, end=states, **operands)
        begin = _running(states, len(prefix), shared["features"], e)
        cpu.run(CAUSAL, steps, q=rows(q, lead), out=rows(out, lead), shift=n - m, begin=begin, **operands)
    else:
        sums = _ranges(0, m, entries)
        states = np.empty((entries, len(sums), number), q.dtype)
        cpu.run(SUM, sums, q=None, out=None, end=states, **operands)
        begin = _running(states, len(sums), shared["features"], e)
        cpu.run(READ, _ranges(0, n, entries), q=rows(q, lead), out=rows(out, lead), begin=begin,
                **operands | dict(k=None, v=None, key_mask=None))
    return out


def step(state: tuple[Array, ...] | None, q: Array, k: Array, v: Array, *, features: str | None = None,
         projection: Array | None = None, scale: float = 1.0) -> tuple[tuple[Array, ...], Array]:
    """The next tokens of a causal sequence: the new state and their outputs.

    The state is (s, z) of shapes (..., f, e) and (..., f), and for the kinds with exponents also the largest
    exponent of each feature (..., f).

    Raises: TypeError or ValueError naming the argument that does not fit.
    Cost: O(c f (d + e)) time, O(f e) memory.
    """
    c, _ = lengths(q, k, v, equal=True)
    lead = leading(q, k, v)
    e, entries = v.shape[-1], math.prod(lead)
    shared = _shared(q, v, lead, features, projection, scale)
    count, blocks = shared["features"], -(-e // TILE)
    begin = np.zeros((entries, 1, cpu.state_numbers(count, e)), q.dtype)
    s, z, top = _views(begin, count, e)
    top[...] = -np.inf
    if state is not None:
        _check_state(state, 2 if features is None else 3, (*lead, count, e), q.dtype)
        old = np.zeros((entries, count, blocks * TILE), q.dtype)
        old[..., :e] = state[0].reshape(entries, count, e)
        s[:, 0] = old.reshape(entries, count, blocks, TILE).swapaxes(1, 2)
        z[:, 0] = state[1].reshape(entries, count)
        if features is not None:
            top[:, 0] = state[2].reshape(entries, count) * q.dtype.type(math.log2(math.e))
    out, end = empty((*lead, c, e), q.dtype), begin.copy()
    ranges = np.array([[0, c]], np.int64)
    cpu.run(CAUSAL, ranges, q=rows(q, lead), k=rows(k, lead), v=rows(v, lead), out=rows(out, lead),
            begin=begin, end=end, **shared)
    s, z, top = _views(end, count, e)
    s = s[:, 0].swapaxes(1, 2).reshape(*lead, count, blocks * TILE)[..., :e].copy()
    new = s, z[:, 0].reshape(*lead, count).copy()
    if features is not None:
        new += (top[:, 0].reshape(*lead, count) * q.dtype.type(math.log(2)),)
    return new, out


def _shared(q: Array, v: Array, lead: tuple[int, ...], features: str | None, projection: Array | None,
            scale: float) -> dict:
    """What every pass of a call is told."""
    kind, count, directions = None, q.shape[-1], None
    if features is not None:
        if features not in KINDS:
            raise ValueError(f"features needs one of {', '.join(KINDS)}, got {features!r}")
        kind = KINDS[features]
        projection = parameter("projection", projection, q.dtype, own=(None, q.shape[-1]), lead=lead)
        if projection.shape[-2] == 0:
            raise ValueError("projection needs at least 1 row, got 0")
        count = projection.shape[-2] * (2 if kind in (HYPERBOLIC, TRIGONOMETRIC) else 1)
        directions = rows(projection, lead)
    return dict(d=q.shape[-1], e=v.shape[-1], entries=math.prod(lead), dtype=q.dtype, kind=kind,
                features=count, projection=directions, root=math.sqrt(scale))


def _ranges(first: int, stop: int, entries: int) -> Array:
    """The tokens first .. stop - 1 cut into parts of whole chunks; the cut depends on the shapes alone."""
    length = max(stop - first, 0)
    parts = max(1, min(-(-_ITEMS // max(entries, 1)), length // _PART))
    size = max(-(-length // (parts * TILE)) * TILE, TILE)
    begin = np.arange(first, max(stop, first), size, dtype=np.int64)
    return np.stack([begin, np.minimum(begin + size, stop)], axis=-1).reshape(-1, 2)


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
    s = a[0] * by_a[:, None, :, None]
    s += b[0] * by_b[:, None, :, None]
    return [s, a[1] * by_a + b[1] * by_b, top]


def _views(states: Array, features: int, e: int) -> tuple[Array, Array, Array]:
    """s (entries, parts, blocks, f, 64), z and top (entries, parts, f) of states."""
    blocks = -(-e // TILE)
    s, z, top = np.split(states, [blocks * features * TILE, (blocks * TILE + 1) * features], axis=-1)
    return s.reshape(*states.shape[:2], blocks, features, TILE), z, top


def _check_state(state: object, parts: int, own: tuple[int, ...], dtype: np.dtype) -> None:
    if not isinstance(state, tuple) or len(state) != parts:
        raise TypeError(f"state needs None or the tuple of {parts} arrays that a step returned, "
                        f"got {describe(state)}")
    for place, x in enumerate(state):
        check_array(f"state[{place}]", x, dtype=dtype)
        wanted = own if place == 0 else own[:-1]
        if x.shape != wanted:
            raise ValueError(f"state[{place}] needs the shape {wanted}, got {x.shape}")
