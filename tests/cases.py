"""The table of cases: every public name of both packages, with its options and the shapes it must bear.

A later paper adds one line to VARIANTS (which gives it all the COMMON cases: lengths, masks, leading axes),
lines of its own to SPECIAL for what only it can do and, if it has a streaming form, one to STEPS.

A draw is a function of a generator that returns keyword arguments; arrays are drawn as float64 and cast where
they stand in the place of q, k and v. A function among the arguments is a pattern: it is given the `patterns`
of the package under test.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Variant(NamedTuple):
    """A function with options of its own, and what of the rules for all functions applies to it."""

    function: str
    options: Callable[..., dict]   # (rng, n, m, d, e) -> the paper's own parameters, for n queries and m keys
    causal: bool = True            # takes causal=
    always_causal: bool = False    # is causal without being told
    scale: bool = True             # takes scale=, a softmax over scores
    size: float = 1.0              # of the entries of q and k: large ones cost some features their digits
    lengths: str = "any"           # "equal": n = m; "more keys": m >= n
    by_key: bool = True            # the output is a mean of the values, whose keys have weights of their own
    own_values: bool = False       # values that do not come from v enter too
    sees_itself: bool = True       # every query sees the key at its own position
    per_query: bool = False        # some option names queries one by one: other queries, other options
    by_distance: bool = True       # who sees whom depends on distances alone, not on absolute positions
    linear_in_q: bool = True       # scores are linear in q: a scale may as well multiply q
    skip: tuple[str, ...] = ()     # COMMON cases that it cannot bear, each with its reason beside it
    call: Callable | None = None   # (function, q, k, v, **options) -> result, where it takes other arguments

    def fitting(self, n: int, m: int) -> bool:
        return self.lengths == "any" or n == m or (self.lengths == "more keys" and m > n)


class Case(NamedTuple):
    name: str
    function: str
    draw: Callable[..., tuple]     # (rng, dtype) -> args, kwargs
    call: Callable[..., object]    # (package, args, kwargs) -> what the package gives
    tiny: bool                     # no axis above 20
    unjitted: bool                 # also runs where the kernels are Python: seconds count


def projections(rng, m, slots=4, lead=()):
    return dict(key_projection=rng.standard_normal((*lead, slots, m)),
                value_projection=rng.standard_normal((*lead, slots, m)))


def kernels(rng, d, e, c=3, lead=()):
    """Kernels of a convolution that leaves entries of order one."""
    return dict(key_kernel=rng.standard_normal((*lead, c, d, d)) / (c * d) ** 0.5,
                value_kernel=rng.standard_normal((*lead, c, e, e)) / (c * max(e, 1)) ** 0.5)


def null_slot(rng, d, e, lead=()):
    return dict(null_key=rng.standard_normal((*lead, 1, d)), null_value=rng.standard_normal((*lead, 1, e)))


def from_scores(function, q, k, v, **options):
    """A function of values and logits, called with the scores of queries and keys as logits."""
    with np.errstate(all="ignore"):  # garbage in hidden keys
        logits = q @ k.swapaxes(-1, -2) * q.shape[-1] ** -0.5
    return function(v, logits, **options)


def directions(rng, d, features, rows=12, lead=()):
    return dict(projection=rng.standard_normal((*lead, rows, d)), features=features)


def listed(rng, n, m, r=4, lead=()):
    """Each query's own position and r - 1 keys drawn for it, -1 where there is none."""
    own = np.clip(np.arange(n) + m - n, -1, m - 1)
    return dict(indices=np.concatenate([np.broadcast_to(own, (*lead, n))[..., None],
                                        rng.integers(-1, max(m, 0), (*lead, n, r - 1))], axis=-1))


def ring(rng, n, d, e, embedded=(), relay=()):
    return dict(key_embedded=rng.standard_normal((*embedded, n, d)),
                value_embedded=rng.standard_normal((*embedded, n, e)),
                key_relay=rng.standard_normal((*relay, 1, d)),
                value_relay=rng.standard_normal((*relay, 1, e)))


def global_tokens(rng, d, e, count=3, lead=()):
    return dict(global_q=rng.standard_normal((*lead, count, d)),
                global_k=rng.standard_normal((*lead, count, d)),
                global_v=rng.standard_normal((*lead, count, e)))


def etc_biases(rng, n, radius, count=3, lead=(), hide=0.2):
    own = dict(long_bias=(n, 2 * radius + 1), long_to_global_bias=(n, count), global_bias=(count, count),
               global_to_long_bias=(count, n))
    return dict(radius=radius) | {name: scores(rng, *lead, *shape, hide=hide) for name, shape in own.items()}


def with_global_tokens(function, q, k, v, *, global_q, global_k, global_v, seen=None, **options):
    """`etc` takes its global tokens by position, in the dtype of q; `seen`: other keys and values of them."""
    if seen is not None:
        keys, values = (x.astype(q.dtype) for x in np.split(seen, [q.shape[-1]], axis=-1))
        options["global_seen_by_long"] = keys, values
    return function(q, k, v, *(x.astype(q.dtype) for x in (global_q, global_k, global_v)), **options)


def random_blocks(rng, n, block, r=2, lead=()):
    number = -(-n // block)
    return dict(block=block, random_blocks=rng.integers(0, max(number, 1), (*lead, number, r)))


def some_clusters(rng, n, number=3, lead=()):
    """Overlapping clusters of half of n rows, every row in at least one: (lead..., number, ceil(n/2))."""
    order = rng.permuted(np.broadcast_to(np.arange(n), (*lead, n)), axis=-1)
    places = (n * np.arange(number)[:, None] // number + np.arange(-(-n // 2))) % max(n, 1)
    return np.sort(order[..., places], axis=-1)


def routes(rng, n, m, number=3, lead=()):
    return dict(query_clusters=some_clusters(rng, n, number, lead),
                key_clusters=some_clusters(rng, m, number, lead))


def block_sort(rng, n, block, lead=()):
    """A mixture of blocks of n tokens, whose rows do not sum to 1."""
    return dict(sort=rng.random((*lead, -(-n // block), -(-n // block))), block=block)


def hashed(rng, n, rounds=2, buckets=5, lead=(), **options):
    return dict(buckets=rng.integers(0, buckets, (*lead, rounds, n)), **options)


def shared_qk(function, q, k, v, **options):
    """The call of a function whose queries are its keys: those of the case are left out."""
    return function(q, v, **options)


def by_distance(rng, m, d, *, lead=(), biases=True):
    """Keys for the distances 0 to m - 1 of `lead` heads, and the queries that all positions share."""
    drawn = {f"{name}_bias": rng.standard_normal((*lead, d)) for name in ("content", "position") if biases}
    return dict(relative_keys=rng.standard_normal((*lead, m, d))) | drawn


def memories(rng, m, d, e, *, memory=6, compressed=3, lead=(), biases=True):
    """Two older stretches of keys and values, and the keys for all distances."""
    return by_distance(rng, compressed + memory + m, d, lead=lead, biases=biases) | {
        name: (rng.standard_normal((*lead, length, d)), rng.standard_normal((*lead, length, e)))
        for name, length in (("memory", memory), ("compressed", compressed))}


def some_of(m, *wanted):
    return [j for j in wanted if j < m]


def grid_of(n):
    """The two factors of n nearest to each other: a grid of n positions."""
    height = max((h for h in range(1, math.isqrt(n) + 1) if n % h == 0), default=1)
    return height, n // height


VARIANTS = {
    "attention": Variant("attention", lambda rng, n, m, d, e: {}),
    "attention_lse": Variant("attention_lse", lambda rng, n, m, d, e: {}),
    "block_local": Variant("block_local", lambda rng, n, m, d, e: dict(block=5),
                           by_distance=False),
    "block_local, neighbours": Variant("block_local", lambda rng, n, m, d, e: dict(
        block=4, before=2, after=1), by_distance=False),
    "sliding_window": Variant("sliding_window", lambda rng, n, m, d, e: dict(left=4, right=2), causal=False),
    "sliding_window, right 0": Variant("sliding_window", lambda rng, n, m, d, e: dict(left=6, right=0),
                                       causal=False, always_causal=True),
    "sliding_window, dilated": Variant("sliding_window", lambda rng, n, m, d, e: dict(
        left=2, right=3, dilation=3), causal=False),
    "random_tokens": Variant("random_tokens", lambda rng, n, m, d, e: listed(rng, n, m), per_query=True),
    "star_ring": Variant("star_ring", lambda rng, n, m, d, e: ring(rng, n, d, e), causal=False,
                         lengths="equal", own_values=True, per_query=True),
    "sparse_strided": Variant("sparse_strided", lambda rng, n, m, d, e: dict(stride=4), always_causal=True),
    "sparse_strided, both sides": Variant("sparse_strided", lambda rng, n, m, d, e: dict(
        stride=3, causal=False)),
    "sparse_fixed": Variant("sparse_fixed", lambda rng, n, m, d, e: dict(stride=4, summary=1),
                            always_causal=True, by_distance=False),
    "sparse_fixed, both sides": Variant("sparse_fixed", lambda rng, n, m, d, e: dict(
        stride=5, summary=2, sub_block=1, causal=False), by_distance=False),
    "longformer": Variant("longformer", lambda rng, n, m, d, e: dict(window=6)),
    "longformer, global": Variant("longformer", lambda rng, n, m, d, e: dict(
        window=4, dilation=2, global_tokens=some_of(m, 0, 7, 11))),
    # a scale belongs to the global queries too, and these are no arguments of the rules
    "etc": Variant("etc", lambda rng, n, m, d, e: global_tokens(rng, d, e) | dict(radius=4), causal=False,
                   lengths="equal", own_values=True, linear_in_q=False, call=with_global_tokens),
    "etc, biased": Variant("etc", lambda rng, n, m, d, e: global_tokens(rng, d, e) | etc_biases(
        rng, n, 2, hide=0), causal=False, lengths="equal", own_values=True, linear_in_q=False, per_query=True,
        call=with_global_tokens),
    "bigbird": Variant("bigbird", lambda rng, n, m, d, e: random_blocks(rng, n, 2), causal=False,
                       lengths="equal", by_distance=False, per_query=True),
    "adaptive_span": Variant("adaptive_span", lambda rng, n, m, d, e: dict(span=3.3, ramp=4), causal=False,
                             always_causal=True, lengths="more keys", sees_itself=False),
    "adaptive_span, per token": Variant("adaptive_span", lambda rng, n, m, d, e: dict(
        span=6 * rng.random(n), ramp=2.5), causal=False, always_causal=True, lengths="more keys",
        sees_itself=False, per_query=True),
    "adaptive_span, positions": Variant("adaptive_span", lambda rng, n, m, d, e: dict(
        span=4.0, ramp=9, position_keys=rng.standard_normal((9, d))), causal=False, always_causal=True,
        lengths="more keys", sees_itself=False),
    "shaw": Variant("shaw", lambda rng, n, m, d, e: dict(key_table=rng.standard_normal((7, d)))),
    "shaw, values": Variant("shaw", lambda rng, n, m, d, e: dict(
        key_table=rng.standard_normal((5, d)), value_table=rng.standard_normal((5, e))), own_values=True),
    "image_1d": Variant("image_1d", lambda rng, n, m, d, e: dict(block=5, memory=3), lengths="equal",
                        by_distance=False),
    # causal in the order of its blocks, which is not that of the positions
    "image_2d": Variant("image_2d", lambda rng, n, m, d, e: dict(
        shape=grid_of(n), block=(2, 4), flange=(1, 2)), causal=False, lengths="equal", by_distance=False),
    "image_2d, all sides": Variant("image_2d", lambda rng, n, m, d, e: dict(
        shape=grid_of(n), block=(3, 2), flange=(1, 2), causal=False), causal=False, lengths="equal",
        by_distance=False),
    "axial": Variant("axial", lambda rng, n, m, d, e: dict(shape=grid_of(n), axis=1), lengths="equal",
                     by_distance=False),
    "axial, columns": Variant("axial", lambda rng, n, m, d, e: dict(shape=grid_of(n)[::-1], axis=-2),
                              lengths="equal", by_distance=False),
    "routing": Variant("routing", lambda rng, n, m, d, e: routes(rng, n, m), sees_itself=False,
                       per_query=True, by_distance=False),
    "sinkhorn": Variant("sinkhorn", lambda rng, n, m, d, e: block_sort(rng, m, 4), lengths="equal",
                        by_key=False, by_distance=False),
    "sinkhorn_cut": Variant("sinkhorn_cut", lambda rng, n, m, d, e: block_sort(rng, m, 4) | dict(keep=2),
                            causal=False, lengths="equal", by_key=False, by_distance=False),
    # the mask in the case that is skipped has the axes of k, which is left out
    **{label: Variant("reformer", lambda rng, n, m, d, e, own=own: hashed(rng, n, **own), lengths="equal",
                      sees_itself=False, per_query=True, by_distance=False, linear_in_q=False,
                      skip=("key mask, V with axes of its own",), call=shared_qk)
       for label, own in {"reformer": dict(chunk=4),
                          "reformer, own bucket": dict(chunk=5, after=1, across_buckets=False)}.items()},
    "linformer": Variant("linformer", lambda rng, n, m, d, e: projections(rng, m), causal=False,
                         by_key=False),
    # a key mask has the axes of v: there is no k, whose axes these cases count
    "synthesizer": Variant("synthesizer", lambda rng, n, m, d, e: {}, scale=False, call=from_scores, skip=(
        "key mask, K with axes of its own", "key mask, V with axes of its own")),
    "memory_compressed": Variant("memory_compressed", lambda rng, n, m, d, e: kernels(rng, d, e),
                                 by_key=False, by_distance=False),
    "memory_compressed, null slot": Variant("memory_compressed", lambda rng, n, m, d, e: kernels(
        rng, d, e, c=2) | null_slot(rng, d, e), by_key=False, by_distance=False, own_values=True),
    "linear_transformer": Variant("linear_transformer", lambda rng, n, m, d, e: {}, scale=False),
    "performer": Variant("performer", lambda rng, n, m, d, e: directions(rng, d, "positive")),
    "performer, hyperbolic": Variant("performer", lambda rng, n, m, d, e: directions(rng, d, "hyperbolic")),
    "performer, trigonometric": Variant("performer", lambda rng, n, m, d, e: directions(
        rng, d, "trigonometric"), size=0.3),
    "performer, relu": Variant("performer", lambda rng, n, m, d, e: directions(rng, d, "relu", rows=30)),
    "transformer_xl": Variant("transformer_xl", lambda rng, n, m, d, e: by_distance(rng, m, d, biases=False),
                              causal=False, always_causal=True, lengths="more keys"),
    "transformer_xl, biases": Variant("transformer_xl", lambda rng, n, m, d, e: by_distance(rng, m, d),
                                      causal=False, always_causal=True, lengths="more keys",
                                      linear_in_q=False),
    # how many keys a query sees depends on the number of queries
    "transformer_xl, same length": Variant("transformer_xl", lambda rng, n, m, d, e: by_distance(
        rng, m, d) | dict(same_length=True), causal=False, always_causal=True, lengths="more keys",
        per_query=True, linear_in_q=False),
    "compressive_transformer": Variant("compressive_transformer", lambda rng, n, m, d, e: memories(
        rng, m, d, e), causal=False, always_causal=True, lengths="more keys", own_values=True,
        linear_in_q=False),
    "compressive_transformer, nothing older": Variant(
        "compressive_transformer", lambda rng, n, m, d, e: memories(
            rng, m, d, e, memory=0, compressed=0, biases=False),
        causal=False, always_causal=True, lengths="more keys"),
}

STEPS = {  # the streaming form of a variant: its own parameters are those of the variant
    "linear_transformer_step": ["linear_transformer"],
    "performer_step": ["performer", "performer, hyperbolic", "performer, trigonometric", "performer, relu"],
}


class Shape(NamedTuple):
    n: int
    m: int
    d: int = 8
    e: int = 6
    q: tuple = (2, 3)              # leading axes
    k: tuple = (2, 3)
    v: tuple | None = None         # those of k


def draw_qkv(rng, dtype, shape, size=1.0):
    q = size * rng.standard_normal((*shape.q, shape.n, shape.d))
    k = size * rng.standard_normal((*shape.k, shape.m, shape.d))
    v = rng.standard_normal((*(shape.k if shape.v is None else shape.v), shape.m, shape.e))
    return tuple(x.astype(dtype) for x in (q, k, v))


def mask_of(*shape):
    """A draw of a key mask that hides about a third."""
    return lambda rng: dict(key_mask=rng.random(shape) < 0.65)


def spoil_hidden(k, v, key_mask):
    """NaN, inf and -inf in every hidden key and value."""
    garbage = np.array([np.nan, np.inf, -np.inf])
    for x in (k, v):
        hidden = np.broadcast_to(~key_mask[..., None], x.shape)
        x[hidden] = np.resize(garbage, hidden.sum())


COMMON = {  # what is common to all variants: a shape, options, and what the variant must take
    "square": (Shape(19, 19), {}),
    "more keys": (Shape(13, 20), {}),
    "more queries": (Shape(20, 13), {}),
    "several tiles": (Shape(150, 135, 16, 24, (1,), (1,)), {}),
    "causal": (Shape(19, 19), dict(causal=True)),
    "causal, more keys": (Shape(13, 20), dict(causal=True)),
    "causal, more queries": (Shape(20, 13), dict(causal=True)),
    "causal, several tiles": (Shape(133, 150, 8, 8, (), ()), dict(causal=True)),
    "causal, one query": (Shape(1, 20), dict(causal=True)),
    "causal, one key": (Shape(6, 1), dict(causal=True)),
    "scale": (Shape(9, 11), dict(scale=0.2)),
    "one query": (Shape(1, 20), {}),
    "one key": (Shape(7, 1), {}),
    "no queries": (Shape(0, 7), {}),
    "no keys": (Shape(7, 0), {}),
    "nothing at all": (Shape(0, 0), {}),
    "no batch": (Shape(7, 9, q=(0, 3), k=(0, 3)), {}),
    "d = 1": (Shape(9, 11, 1, 5), {}),
    "e = 1": (Shape(9, 11, 5, 1), {}),
    "e = 0": (Shape(9, 11, 5, 0), {}),
    "e > d": (Shape(9, 11, 3, 17), {}),
    "no leading axes": (Shape(9, 11, q=(), k=()), {}),
    "three leading axes": (Shape(6, 7, q=(2, 1, 3), k=(2, 2, 3)), {}),
    "one K/V head": (Shape(9, 11, k=(2, 1)), {}),
    "K/V without axes": (Shape(9, 11, k=()), {}),
    "q without axes": (Shape(9, 11, q=()), {}),
    "crossed axes": (Shape(9, 11, q=(3,), k=(2, 1)), {}),
    "V with axes of its own": (Shape(9, 11, q=(3,), k=(3,), v=(2, 3)), {}),
    "K with axes of its own": (Shape(9, 11, q=(3,), k=(2, 3), v=(3,)), {}),
    "1-D key mask": (Shape(13, 17), mask_of(17)),
    "key mask per batch entry": (Shape(13, 17), mask_of(2, 1, 17)),
    "key mask per head": (Shape(13, 17), mask_of(2, 3, 17)),
    "key mask per entry, one K/V head": (Shape(13, 17, k=(2, 1)), mask_of(2, 1, 17)),
    "key mask per entry, shared K": (Shape(13, 17, k=(1, 1)), mask_of(2, 1, 17)),
    "key mask, K with axes of its own": (Shape(9, 11, q=(2, 3), k=(2, 3), v=(3,)), mask_of(2, 1, 11)),
    "key mask, V with axes of its own": (Shape(9, 11, q=(2, 3), k=(3,), v=(2, 3)), mask_of(3, 11)),
    "everything hidden": (Shape(9, 11), lambda rng: dict(key_mask=np.zeros(11, bool))),
    "one entry hidden": (Shape(9, 11), lambda rng: dict(
        key_mask=np.array([[[False] * 11], [[True] * 11]]))),
    "key mask and causal": (Shape(17, 17), lambda rng: dict(key_mask=rng.random(17) < 0.5, causal=True)),
    "key mask, several tiles": (Shape(70, 150, q=(2,), k=(2,)), mask_of(2, 150)),
}


# without compilation seconds count: some cases of variants that together go every way through the engines
UNJITTED = {"square", "causal, more queries", "no keys", "key mask per batch entry, garbage under it"}
UNJITTED_VARIANTS = {
    "attention", "attention_lse", "block_local", "sliding_window", "sliding_window, dilated", "random_tokens",
    "sparse_strided, both sides", "sparse_fixed, both sides", "etc", "etc, biased", "adaptive_span",
    "adaptive_span, positions", "shaw", "reformer", "routing", "star_ring", "linformer",
    "synthesizer", "linear_transformer", "performer", "performer, hyperbolic", "performer, trigonometric",
    "performer, relu", "compressive_transformer"}


def _common(label, variant):
    """All COMMON cases that `variant` can bear, and those with garbage in the keys that a mask hides."""
    unjitted = UNJITTED if label in UNJITTED_VARIANTS else ()
    for name, (shape, options) in COMMON.items():
        drawn = options(np.random.default_rng(0)) if callable(options) else options
        if ("causal" in drawn and not variant.causal) or ("scale" in drawn and not variant.scale):
            continue
        if name in variant.skip:
            continue
        if not variant.fitting(shape.n, shape.m):
            if variant.lengths == "more keys" or name in ("more keys", "causal, more keys"):
                continue
            shape = shape._replace(n=shape.m)
        yield _case(f"{label}: {name}", variant, shape, options, unjitted=name in unjitted)
        if "key_mask" in drawn:
            name += ", garbage under it"
            yield _case(f"{label}: {name}", variant, shape, options, spoil=True, unjitted=name in unjitted)


def _case(name, variant, shape, options, *, spoil=False, unjitted=False):
    def draw(rng, dtype):
        q, k, v = draw_qkv(rng, dtype, shape, variant.size)
        kwargs = variant.options(rng, shape.n, shape.m, shape.d, shape.e)
        kwargs |= options(rng) if callable(options) else options
        if spoil:
            # a mask with more axes than k or v is shared by what it is broadcast over
            k, v = (np.broadcast_to(x, (*np.broadcast_shapes(kwargs["key_mask"].shape[:-1], x.shape[:-2]),
                                        *x.shape[-2:])).copy() for x in (k, v))
            spoil_hidden(k, v, kwargs["key_mask"])
        return (q, k, v), kwargs

    tiny = max(shape.n, shape.m) <= 20
    call = plain(variant.function, variant.call)
    return Case(name, variant.function, draw, call, tiny, tiny and unjitted)


def plain(function, adapter=None):
    """The call of a public name with the arguments as they are (or by `adapter`), patterns filled in."""
    def call(package, args, kwargs):
        filled = {name: x(package.patterns) if callable(x) else x for name, x in kwargs.items()}
        own = getattr(package, function)
        return own(*args, **filled) if adapter is None else adapter(own, *args, **filled)

    return call


def function_of(package, label):
    """A variant as a function of q, k, v and its options."""
    variant = VARIANTS[label]
    function = getattr(package, variant.function)
    return function if variant.call is None else functools.partial(variant.call, function)


def options_of(label, rng, shape):
    return VARIANTS[label].options(rng, shape.n, shape.m, shape.d, shape.e)


def fit(label, shape):
    """`shape` with as many queries as keys where the variant needs that."""
    return shape if VARIANTS[label].fitting(shape.n, shape.m) else shape._replace(n=shape.m)


def in_steps(function, splits):
    """The call of a streaming form that takes `splits` tokens at a time."""
    def call(package, args, kwargs):
        state, outs, start = None, [], 0
        for c in splits:
            part = (x[..., start:start + c, :] for x in args)
            state, out = getattr(package, function)(state, *part, **kwargs)
            outs.append(out)
            start += c
        return np.concatenate(outs, axis=-2)

    return call


def dense(pattern):
    """A pattern of either package as a boolean array."""
    return pattern if isinstance(pattern, np.ndarray) else pattern.to_csr().toarray()


def special(function, what, shape, options=None, *, size=1.0, call=None):
    """A case of one function alone; `options` is a draw."""
    variant = Variant(function, lambda rng, n, m, d, e: {}, size=size, call=call)
    # one function for each way through the engines
    unjitted = function in ("attention_lse", "random_tokens", "linformer", "linear_transformer")
    return _case(f"{function}: {what}", variant, shape, options or {}, unjitted=unjitted)


def of_codes(function, what, shape, options=None):
    """A case whose keys and values are codes of 8 bits and scales, which are NaN where a key mask hides."""
    def draw(rng, dtype):
        q, (k, v) = draw_qkv(rng, dtype, shape)[0], (shape.k, shape.k if shape.v is None else shape.v)
        kwargs = options(rng) if callable(options) else dict(options or {})
        shown = kwargs.get("key_mask", True)
        pairs = []
        for lead, width in ((k, shape.d), (v, shape.e)):
            scales = np.where(shown, rng.uniform(0.005, 0.02, (*lead, shape.m)), np.nan)
            pairs.append((rng.integers(-127, 128, (*lead, shape.m, width), np.int8),
                          scales.astype(np.float32 if q.itemsize == 2 else dtype)))
        return (q, *pairs), kwargs

    tiny = max(shape.n, shape.m) <= 20
    return Case(f"{function}: codes, {what}", function, draw, plain(function), tiny, tiny)


def free(function, what, draw, call=None):
    """A case that is not of the form q, k, v: `draw` gives the arguments."""
    def cast(rng, dtype):
        args, kwargs = draw(rng)
        return tuple(x.astype(dtype) if isinstance(x, np.ndarray) and x.dtype.kind == "f" else x
                     for x in args), kwargs

    return Case(f"{function}: {what}", function, cast, call or plain(function), True, True)


def scores(rng, *shape, hide=0.3):
    return np.where(rng.random(shape) < hide, -np.inf, rng.standard_normal(shape))


def partial_results(rng, *, hide=0.3):
    """Two results to be merged, some of whose rows saw nothing."""
    parts = []
    for _ in range(2):
        lse = scores(rng, 2, 3, 9, hide=hide)
        parts += [np.where(np.isneginf(lse)[..., None], 0, rng.standard_normal((2, 3, 9, 5))), lse]
    return tuple(parts), {}


PATTERNS = {  # (name, a function of the `patterns` of a package, its number of queries and keys)
    "past": (lambda p: p.past(20), 20, 20),
    "past, more keys": (lambda p: p.past(13, 20), 13, 20),
    "past, more queries": (lambda p: p.past(20, 13), 20, 13),
    "past, several tiles": (lambda p: p.past(140, 150), 140, 150),
    "window": (lambda p: p.window(20, left=3, right=2), 20, 20),
    "window, more keys": (lambda p: p.window(13, 20, left=3, right=2), 13, 20),
    "window, more queries": (lambda p: p.window(20, 13, left=3, right=2), 20, 13),
    "window, dilated": (lambda p: p.window(20, left=3, right=2, dilation=3), 20, 20),
    "window, several tiles": (lambda p: p.window(150, left=70, right=3), 150, 150),
    "window, wider than all": (lambda p: p.window(9, left=100, right=100), 9, 9),
    "same_block": (lambda p: p.same_block(20, 6), 20, 20),
    "same_block, neighbours": (lambda p: p.same_block(20, 3, 2, 1), 20, 20),
    "same_block, several tiles": (lambda p: p.same_block(150, 40, 1), 150, 150),
    "same_block, one block": (lambda p: p.same_block(9, 100), 9, 9),
    "hubs": (lambda p: p.hubs(20, [0, 7]), 20, 20),
    "hubs, none": (lambda p: p.hubs(9, []), 9, 9),
    "hubs, repeated": (lambda p: p.hubs(9, np.array([3, 3])), 9, 9),
    "strided": (lambda p: p.strided(20, 6), 20, 20),
    "strided, more keys": (lambda p: p.strided(13, 6, 20), 13, 20),
    "strided, more queries": (lambda p: p.strided(20, 6, 13), 20, 13),
    "strided, several tiles": (lambda p: p.strided(140, 12), 140, 140),
    "summaries": (lambda p: p.summaries(20, 6, 2), 20, 20),
    "summaries, further in": (lambda p: p.summaries(20, 6, 2, 2), 20, 20),
    "summaries, more keys": (lambda p: p.summaries(13, 6, 2, 1, 20), 13, 20),
    "blocks": (lambda p: p.blocks(np.array([[1, 1], [0, -1], [3, 0], [2, 2]]), 5, 18), 18, 18),
    "blocks, several tiles": (lambda p: p.blocks(np.array([[1], [0], [-1]]), 50, 140), 140, 140),
    "scattered": (lambda p: p.scattered(4, np.array([[1, 1], [0, 3], [-1, -1], [2, -1]])), 4, 4),
    "scattered, nothing listed": (lambda p: p.scattered(4, np.zeros((4, 0), int)), 4, 4),
    "scattered, several tiles": (lambda p: p.scattered(
        140, np.random.default_rng(1).integers(-1, 140, (140, 6))), 140, 140),
    "union": (lambda p: p.window(20, left=2, right=0) | p.hubs(20, [0, 5]) | p.strided(20, 7), 20, 20),
    "intersection": (lambda p: p.past(20) & p.same_block(20, 6), 20, 20),
    "intersection of a union": (
        lambda p: (p.strided(140, 12) | p.same_block(140, 12)) & p.past(140), 140, 140),
    "intersection of strides, more keys": (lambda p: p.strided(70, 4, 90) & p.strided(70, 6, 90), 70, 90),
    "intersection, cells before the query": (
        lambda p: p.summaries(70, 12, 3, 0, 90) & p.past(70, 90), 70, 90),
    "union of strides, more queries": (lambda p: p.strided(90, 6, 70) | p.strided(90, 4, 70), 90, 70),
    # what becomes two lists of tiles: keys in a row and keys in hops; a few queries that see everything
    "union, window and stride": (
        lambda p: p.window(250, 240, left=9, right=9) | p.strided(250, 16, 240), 250, 240),
    "union, window and dilated window": (
        lambda p: p.window(200, left=9, right=0) | p.window(200, left=9, right=0, dilation=9), 200, 200),
    "union, dilated window and hubs": (
        lambda p: p.window(150, left=9, right=9, dilation=4) | p.hubs(150, [0, 77]), 150, 150),
    "union, window and far hubs": (
        lambda p: (p.window(257, left=5, right=5) | p.hubs(257, range(30, 257, 40))) & p.past(257), 257, 257),
    "empty": (lambda p: p.past(0), 0, 0),
}

PATTERNS_PER_HEAD = {
    "window, dilation per head": (
        lambda p: p.window(20, left=3, right=2, dilation=np.array([1, 2, 5])), 20, 20),
    "window and hubs, dilation per head": (lambda p: p.hubs(200, [3, 99, 160]) | p.window(
        200, left=8, right=2, dilation=np.array([1, 9])), 200, 200),
    "summaries, sub-block per head": (lambda p: p.summaries(20, 6, 2, np.array([0, 1, 2])), 20, 20),
    "blocks per head": (lambda p: p.blocks(np.array([[[1], [0]], [[-1], [1]], [[0], [1]]]), 10, 20), 20, 20),
    "scattered per head": (lambda p: p.scattered(4, np.arange(24).reshape(3, 4, 2) % 5 - 1), 4, 4),
}


def hidden_bias(rng, *shape):
    return dict(bias=scores(rng, *shape, hide=0.3))


SPECIAL = [
    # the definition
    free("softmax", "rows", lambda rng: ((rng.standard_normal((3, 4, 70)),), {})),
    free("softmax", "hidden scores", lambda rng: ((scores(rng, 4, 9),), {})),
    free("softmax", "nothing but -inf", lambda rng: ((np.full((2, 5), -np.inf),), {})),
    free("softmax", "another axis", lambda rng: ((scores(rng, 4, 9, 3),), dict(axis=1))),
    free("softmax", "the first axis, by position", lambda rng: ((scores(rng, 4, 9), 0), {})),
    free("softmax", "one axis", lambda rng: ((rng.standard_normal(9),), {})),
    free("softmax", "large scores", lambda rng: ((1e30 * rng.standard_normal((3, 9)),), {})),
    free("softmax", "empty rows", lambda rng: ((np.zeros((3, 0)),), {})),
    free("softmax", "no rows", lambda rng: ((np.zeros((0, 3)),), {})),
    free("layer_norm", "rows", lambda rng: (tuple(rng.standard_normal(s) for s in ((2, 5, 33), 33, 33)), {})),
    free("layer_norm", "eps", lambda rng: (tuple(rng.standard_normal(s) for s in ((5, 8), 8, 8)),
                                           dict(eps=0.5))),
    free("layer_norm", "one row", lambda rng: (tuple(rng.standard_normal(s) for s in (7, 7, 7)), {})),
    free("layer_norm", "width 1", lambda rng: (tuple(rng.standard_normal(s) for s in ((5, 1), 1, 1)), {})),
    free("layer_norm", "no rows", lambda rng: (tuple(rng.standard_normal(s) for s in ((0, 4), 4, 4)), {})),
    free("merge", "two sides", lambda rng: partial_results(rng, hide=0)),
    free("merge", "rows that saw nothing", partial_results),
    free("merge", "nothing seen", lambda rng: partial_results(rng, hide=1)),
    free("merge", "far apart", lambda rng: tuple(
        [(lambda a, x, b, y: (a, 1e4 * x, b, 1e4 * y))(*partial_results(rng, hide=0)[0]), {}])),
    free("quantize_rows", "rows", lambda rng: ((rng.standard_normal((2, 3, 9, 16)),), {})),
    free("quantize_rows", "rows of very different sizes", lambda rng: (
        (10.0 ** rng.integers(-30, 30, (9, 1)) * rng.standard_normal((9, 16)),), {})),
    free("quantize_rows", "rows of zeros", lambda rng: (
        (rng.standard_normal((5, 8)) * (np.arange(5)[:, None] % 2),), {})),
    free("quantize_rows", "several chunks", lambda rng: ((rng.standard_normal((3, 123, 200)),), {})),
    free("quantize_rows", "another layout", lambda rng: ((rng.standard_normal((16, 3, 9)).T[:, ::-1],), {})),
    free("quantize_rows", "width 0", lambda rng: ((np.zeros((3, 0)),), {})),
    free("quantize_rows", "no rows", lambda rng: ((np.zeros((2, 0, 4)),), {})),
    # attention to codes of 8 bits: a few queries read them as they are
    *(of_codes(function, what, shape, own) for function in ("attention", "attention_lse")
      for what, shape, own in (
        ("one query", Shape(1, 600, q=(2, 3), k=(3,)), {}),
        ("few queries", Shape(5, 600, q=(2, 3), k=(3,)), lambda rng: dict(
            key_mask=rng.random((3, 600)) < 0.6, scale=0.3)),
        ("few queries, causal", Shape(8, 600), dict(causal=True)),
        ("few queries, keys with more axes", Shape(3, 20, q=(3,), k=(2, 1), v=(2, 3)), {}),
        ("few queries, no keys", Shape(3, 0), {}),
        ("few queries, mask and bias", Shape(7, 20), lambda rng: dict(
            mask=rng.random((7, 20)) < 0.6, bias=rng.standard_normal((3, 7, 20)))),
        ("more queries", Shape(20, 70, q=(2, 3), k=(3,)), lambda rng: dict(
            key_mask=rng.random((3, 70)) < 0.6, causal=True)),
        ("pattern", Shape(20, 20, q=(2,), k=(2,)), dict(mask=lambda p: p.window(20, left=5, right=5))),
      )),
    # attention: masks and biases
    *(special(function, what, shape, options) for function in ("attention", "attention_lse")
      for what, shape, options in (
        ("mask", Shape(13, 20), lambda rng: dict(mask=rng.random((13, 20)) < 0.5)),
        ("mask per head", Shape(13, 20), lambda rng: dict(mask=rng.random((3, 13, 20)) < 0.5)),
        ("mask per batch entry", Shape(13, 20), lambda rng: dict(mask=rng.random((2, 1, 13, 20)) < 0.5)),
        ("mask of one row", Shape(13, 20), lambda rng: dict(mask=rng.random((1, 20)) < 0.5)),
        ("mask of one column", Shape(13, 20), lambda rng: dict(mask=rng.random((3, 13, 1)) < 0.5)),
        ("mask of one axis", Shape(13, 20), lambda rng: dict(mask=rng.random(20) < 0.5)),
        ("mask, several tiles", Shape(140, 150, q=(2,), k=(1,)),
         lambda rng: dict(mask=rng.random((140, 150)) < 0.02)),
        ("bias", Shape(13, 20), lambda rng: dict(bias=rng.standard_normal((2, 3, 13, 20)))),
        ("bias per head", Shape(13, 20), lambda rng: dict(bias=rng.standard_normal((3, 13, 20)))),
        ("bias for all", Shape(13, 20), lambda rng: dict(bias=rng.standard_normal((13, 20)))),
        ("bias of one row", Shape(13, 20), lambda rng: dict(bias=rng.standard_normal((2, 1, 1, 20)))),
        ("bias of one column", Shape(13, 20), lambda rng: dict(bias=rng.standard_normal((13, 1)))),
        ("bias that hides", Shape(13, 20), lambda rng: hidden_bias(rng, 3, 13, 20)),
        ("bias that hides all", Shape(5, 6), lambda rng: hidden_bias(rng, 3, 1, 1) | dict(scale=1.0)),
        ("bias, several tiles", Shape(140, 150, q=(2,), k=(2,)), lambda rng: hidden_bias(rng, 2, 140, 150)),
        *((f"few queries, {n}", Shape(n, 257, q=(2, 3), k=(3,)), lambda rng: dict(
            key_mask=rng.random((3, 257)) < 0.6, scale=0.3)) for n in (1, 2, 4, 5, 8)),
        ("few queries, causal", Shape(7, 257), lambda rng: dict(causal=True)),
        ("few queries, causal, fewer keys", Shape(8, 5), lambda rng: dict(causal=True)),
        ("few queries, chunks that are hidden", Shape(3, 257), lambda rng: dict(
            key_mask=np.arange(257) > 255)),
        ("all together", Shape(13, 20), lambda rng: dict(
            mask=rng.random((3, 13, 20)) < 0.6, bias=rng.standard_normal((13, 20)), causal=True, scale=0.3,
            key_mask=rng.random((2, 1, 20)) < 0.7)),
      )),
    *(special("attention_lse", f"pattern {what}",
              Shape(n, m, q=(2, 3), k=(3,)) if n < 100 else Shape(n, m, q=(2,), k=()),
              lambda rng, pattern=pattern: dict(mask=pattern))
      for what, (pattern, n, m) in (PATTERNS | PATTERNS_PER_HEAD).items()),
    special("attention", "pattern, causal and key mask", Shape(20, 20), lambda rng: dict(
        mask=lambda p: p.window(20, left=5, right=5) | p.hubs(20, [3]), causal=True,
        key_mask=rng.random(20) < 0.6)),
    special("attention_lse", "far hubs and bias", Shape(257, 257), lambda rng: dict(
        mask=PATTERNS["union, window and far hubs"][0], **hidden_bias(rng, 257, 257))),
    special("attention", "pattern and bias", Shape(20, 20), lambda rng: dict(
        mask=lambda p: p.window(20, left=5, right=5), bias=rng.standard_normal((3, 20, 20)))),
    *(free(f"patterns.{what.split(',')[0]}", what, lambda rng, pattern=pattern: ((np.zeros(0), pattern), {}),
           lambda package, args, kwargs: dense(args[1](package.patterns)))
      for what, (pattern, n, m) in PATTERNS.items()),
    # blocks
    special("block_local", "block 1", Shape(13, 13), lambda rng: dict(block=1)),
    special("block_local", "block n", Shape(13, 13), lambda rng: dict(block=13)),
    special("block_local", "block above n", Shape(13, 20), lambda rng: dict(block=100, before=3)),
    special("block_local", "only the blocks after", Shape(20, 20), lambda rng: dict(block=6, after=2)),
    special("block_local", "blocks across tiles", Shape(150, 150, q=(2,), k=(2,)),
            lambda rng: dict(block=50)),
    special("block_local", "blocks across tiles, causal", Shape(110, 150, q=(2,), k=(2,)),
            lambda rng: dict(block=23, before=1, causal=True)),
    # windows
    special("sliding_window", "self alone", Shape(13, 13), lambda rng: dict(left=0, right=0)),
    special("sliding_window", "dilation per head", Shape(20, 20),
            lambda rng: dict(left=2, right=3, dilation=np.array([1, 2, 5]))),
    special("sliding_window", "dilation per head, a list", Shape(20, 17),
            lambda rng: dict(left=2, right=0, dilation=[4, 1, 1])),
    special("sliding_window", "dilation above n", Shape(9, 9),
            lambda rng: dict(left=3, right=3, dilation=50)),
    special("sliding_window", "wider than everything", Shape(9, 13), lambda rng: dict(left=99, right=99)),
    special("sliding_window", "across tiles", Shape(150, 150, q=(2,), k=(2,)),
            lambda rng: dict(left=66, right=30)),
    special("sliding_window", "across tiles, dilated", Shape(150, 130, q=(2,), k=(2,)),
            lambda rng: dict(left=9, right=5, dilation=np.array([3, 7]))),
    # lists of keys
    special("random_tokens", "per head", Shape(9, 11), lambda rng: listed(rng, 9, 11, lead=(3,))),
    special("random_tokens", "per batch entry, causal", Shape(11, 11),
            lambda rng: listed(rng, 11, 11, lead=(2, 1)) | dict(causal=True)),
    special("random_tokens", "nothing listed", Shape(9, 11), lambda rng: dict(indices=np.zeros((9, 0), int))),
    special("random_tokens", "everything listed, twice", Shape(9, 11),
            lambda rng: dict(indices=np.tile(np.arange(22, dtype=np.int32) % 11, (9, 1)))),
    special("random_tokens", "one key for all", Shape(150, 7, q=(2,), k=()),
            lambda rng: dict(indices=np.full((150, 1), 3))),
    # a ring
    *(special("star_ring", what, shape, lambda rng, shape=shape, leads=leads, mask=mask:
              ring(rng, shape.n, shape.d, shape.e, *leads) | mask_of(*mask)(rng))
      for what, shape, leads, mask in (
        ("two tokens", Shape(2, 2), ((), ()), (2,)),
        ("three tokens", Shape(3, 3), ((), ()), (2, 1, 3)),
        ("everything per entry", Shape(9, 9), ((2, 3), (2, 3)), (2, 3, 9)),
        ("embeddings per head, one K/V head", Shape(9, 9, k=(2, 1)), ((3,), (2, 1)), (2, 1, 9)),
        ("embeddings with axes, K/V without", Shape(9, 9, k=()), ((2, 1), (3,)), (9,)),
        ("a full tile", Shape(64, 64, q=(2,), k=(2,)), ((2,), ()), (2, 64)),
      )),
    # strides and summaries
    special("sparse_strided", "stride 1", Shape(13, 13), lambda rng: dict(stride=1)),
    special("sparse_strided", "stride above n", Shape(13, 20), lambda rng: dict(stride=50, causal=False)),
    special("sparse_strided", "local, across tiles", Shape(150, 135, q=(2,), k=(2,)),
            lambda rng: dict(stride=40, part="local", causal=False)),
    special("sparse_strided", "summary", Shape(20, 13), lambda rng: dict(stride=5, part="summary")),
    special("sparse_strided", "summary, both sides, key mask", Shape(13, 20), lambda rng: dict(
        stride=3, part="summary", causal=False, key_mask=rng.random((2, 1, 20)) < 0.6)),
    special("sparse_strided", "across tiles, key mask", Shape(150, 150, q=(2,), k=(1,)), lambda rng: dict(
        stride=2, causal=False, key_mask=rng.random(150) < 0.7)),
    *(special("sparse_fixed", what, shape, lambda rng, options=options, mask=mask:
              options | (mask_of(*mask[0])(rng) if mask else {}))
      for what, shape, options, *mask in (
        ("summary of all", Shape(13, 20), dict(stride=3, summary=3)),
        ("local, stride above n", Shape(9, 13), dict(stride=50, summary=1, part="local")),
        ("no summary within n", Shape(9, 9), dict(stride=50, summary=1, part="summary", causal=False)),
        ("sub-block per head", Shape(20, 20), dict(stride=6, summary=2, sub_block=np.array([0, 2, 1]))),
        ("sub-block per head, both sides", Shape(20, 17), dict(
            stride=6, summary=1, sub_block=[5, 0, 3], causal=False)),
        ("sub-block per head, K/V without axes", Shape(13, 20, k=()), dict(
            stride=6, summary=2, sub_block=[0, 2, 1], part="summary"), (20,)),
        ("sub-block per head, one K/V head", Shape(13, 20, k=(2, 1)), dict(
            stride=6, summary=2, sub_block=[0, 2, 1]), (2, 1, 20)),
        ("across tiles", Shape(150, 135, q=(2,), k=(2,)), dict(stride=40, summary=5)),
        ("summary, across tiles, both sides", Shape(135, 150, q=(2,), k=(1,)), dict(
            stride=9, summary=4, sub_block=1, part="summary", causal=False)),
      )),
    # global tokens
    special("longformer", "window 0, no global", Shape(9, 9), lambda rng: dict(window=0)),
    special("longformer", "window 0, global", Shape(13, 13),
            lambda rng: dict(window=0, global_tokens=[12, 3])),
    special("longformer", "repeated global token", Shape(13, 13),
            lambda rng: dict(window=4, global_tokens=np.array([3, 3, 5]))),
    special("longformer", "all global", Shape(9, 9), lambda rng: dict(window=2, global_tokens=range(9))),
    special("longformer", "global per batch entry", Shape(20, 20), lambda rng: dict(
        window=4, global_tokens=rng.random((2, 1, 20)) < 0.2)),
    special("longformer", "global per head", Shape(20, 20), lambda rng: dict(
        window=4, global_tokens=rng.random((3, 20)) < 0.2)),
    special("longformer", "global for all, booleans", Shape(20, 20), lambda rng: dict(
        window=4, global_tokens=rng.random(20) < 0.2)),
    special("longformer", "causal, global", Shape(20, 20), lambda rng: dict(
        window=4, causal=True, global_tokens=rng.random((2, 1, 20)) < 0.2)),
    special("longformer", "causal, global, more keys", Shape(13, 20), lambda rng: dict(
        window=4, causal=True, global_tokens=[2, 6, 7, 19])),
    special("longformer", "causal, global, more queries", Shape(20, 13), lambda rng: dict(
        window=4, causal=True, global_tokens=[0, 6, 12])),
    special("longformer", "dilation per head, global", Shape(20, 20), lambda rng: dict(
        window=6, dilation=np.array([1, 2, 3]), global_tokens=[4])),
    special("longformer", "all options", Shape(20, 20), lambda rng: dict(
        window=6, dilation=np.array([1, 2, 3]), global_tokens=rng.random((2, 1, 20)) < 0.2, causal=True,
        key_mask=rng.random((2, 1, 20)) < 0.7, scale=0.4)),
    special("longformer", "global, several tiles", Shape(150, 150, q=(2,), k=(2,)), lambda rng: dict(
        window=40, global_tokens=rng.random((2, 150)) < 0.05)),
    special("longformer", "global, several tiles, causal", Shape(130, 150, q=(2,), k=(1,)), lambda rng: dict(
        window=12, dilation=3, causal=True, global_tokens=rng.random((2, 150)) < 0.05)),
    # a long and a global stream
    *(special("etc", what, shape, options, call=with_global_tokens) for what, shape, options in (
        ("radius 0", Shape(9, 9), lambda rng: global_tokens(rng, 8, 6) | etc_biases(rng, 9, 0)),
        ("radius above n", Shape(9, 9), lambda rng: global_tokens(rng, 8, 6) | etc_biases(rng, 9, 20)),
        ("no global tokens", Shape(9, 9), lambda rng: global_tokens(rng, 8, 6, 0) | etc_biases(rng, 9, 2, 0)),
        ("no long tokens", Shape(0, 0), lambda rng: global_tokens(rng, 8, 6) | etc_biases(rng, 0, 2)),
        ("more global than long", Shape(3, 3), lambda rng: global_tokens(rng, 8, 6, 9) | dict(radius=1)),
        ("leading axes of the global tokens", Shape(9, 9, q=(), k=()),
         lambda rng: global_tokens(rng, 8, 6, lead=(3,)) | etc_biases(rng, 9, 2)),
        ("all options", Shape(17, 17), lambda rng: global_tokens(rng, 8, 6, lead=(2, 3))
         | etc_biases(rng, 17, 3, lead=(2, 1)) | dict(
             seen=rng.standard_normal((3, 3, 14)), key_mask=rng.random((2, 1, 17)) < 0.7,
             global_key_mask=rng.random((2, 3, 3)) < 0.7, scale=0.4)),
        ("both in several tiles", Shape(150, 150, q=(2,), k=(2,)), lambda rng: global_tokens(
            rng, 8, 6, 70, (2,)) | etc_biases(rng, 150, 30, 70) | dict(key_mask=rng.random((2, 150)) < 0.8)),
    )),
    # blocks of blocks
    special("bigbird", "block 1", Shape(13, 13), lambda rng: random_blocks(rng, 13, 1, 3)),
    special("bigbird", "block above n", Shape(13, 13), lambda rng: random_blocks(rng, 13, 50)),
    special("bigbird", "no random blocks", Shape(20, 20), lambda rng: random_blocks(rng, 20, 3, 0)),
    special("bigbird", "random blocks per batch entry", Shape(20, 20),
            lambda rng: random_blocks(rng, 20, 3, lead=(2, 1))),
    special("bigbird", "all options", Shape(20, 20, k=(2, 1)), lambda rng: random_blocks(
        rng, 20, 3, lead=(3,)) | dict(scale=0.4, key_mask=rng.random((2, 1, 20)) < 0.7)),
    special("bigbird", "blocks of a tile", Shape(257, 257, q=(2,), k=(1,)),
            lambda rng: random_blocks(rng, 257, 64, 1, (2,))),
    special("bigbird", "blocks across tiles", Shape(150, 150, q=(2,), k=(2,)),
            lambda rng: random_blocks(rng, 150, 20, 2, (2,)) | dict(key_mask=rng.random((2, 150)) < 0.8)),
    # terms by distance
    special("adaptive_span", "nothing in reach", Shape(9, 9), lambda rng: dict(span=0, ramp=0.5)),
    special("adaptive_span", "the whole past", Shape(9, 13), lambda rng: dict(span=1e9, ramp=1)),
    special("adaptive_span", "span per head", Shape(20, 20), lambda rng: dict(
        span=np.array([[0.0], [2.7], [40.0]]), ramp=3)),
    special("adaptive_span", "span per token of each entry, key mask", Shape(13, 20), lambda rng: dict(
        span=8 * rng.random((2, 3, 13)), ramp=3, key_mask=rng.random((2, 1, 20)) < 0.7)),
    special("adaptive_span", "positions per head, fewer than the span", Shape(13, 20), lambda rng: dict(
        span=30 * rng.random((2, 1, 1)), ramp=10, position_keys=rng.standard_normal((3, 6, 8)), scale=0.5)),
    special("adaptive_span", "position of distance 0 alone", Shape(9, 9), lambda rng: dict(
        span=5, ramp=3, position_keys=rng.standard_normal((1, 8)))),
    special("adaptive_span", "several tiles, span per head", Shape(133, 150, q=(2,), k=(2,)),
            lambda rng: dict(span=np.array([[5.0], [90.5]]), ramp=32)),
    special("adaptive_span", "several tiles, span per token, positions", Shape(150, 150, q=(2,), k=(1,)),
            lambda rng: dict(span=100 * rng.random((2, 150)), ramp=8.5,
                             position_keys=rng.standard_normal((81, 8)))),
    special("shaw", "clipped at 0", Shape(9, 11), lambda rng: dict(
        key_table=rng.standard_normal((1, 8)), value_table=rng.standard_normal((1, 6)))),
    special("shaw", "clipped beyond everything", Shape(9, 11), lambda rng: dict(
        key_table=rng.standard_normal((61, 8)), value_table=rng.standard_normal((61, 6)))),
    special("shaw", "tables per head and per batch entry", Shape(9, 11, k=(2, 1)), lambda rng: dict(
        key_table=rng.standard_normal((3, 7, 8)), value_table=rng.standard_normal((2, 1, 7, 6)), scale=0.3)),
    special("shaw", "a band across tiles", Shape(150, 135, q=(2,), k=(1,)), lambda rng: dict(
        key_table=rng.standard_normal((41, 8)), value_table=rng.standard_normal((41, 6)))),
    special("shaw", "a band across tiles, causal, key mask", Shape(135, 150, q=(2,), k=(2,)),
            lambda rng: dict(key_table=rng.standard_normal((2, 181, 8)), causal=True,
                             value_table=rng.standard_normal((2, 181, 6)),
                             key_mask=rng.random((2, 150)) < 0.6)),
    # blocks of pixels
    special("image_1d", "both sides", Shape(20, 20), lambda rng: dict(block=6, memory=4, causal=False)),
    special("image_1d", "memory beyond the image", Shape(13, 13), lambda rng: dict(block=4, memory=99)),
    special("image_1d", "one block", Shape(13, 13), lambda rng: dict(block=99, memory=0)),
    special("image_1d", "across tiles", Shape(150, 150, q=(2,), k=(1,)),
            lambda rng: dict(block=50, memory=70)),
    *(special("image_2d", f"{what}, {'causal' if causal else 'all sides'}", shape,
              lambda rng, options=options, causal=causal: options | dict(causal=causal))
      for causal in (True, False) for what, shape, options in (
        ("ragged grid", Shape(20, 20), dict(shape=(5, 4), block=(2, 3), flange=(2, 1))),
        ("no flange", Shape(18, 18), dict(shape=(3, 6), block=(2, 2), flange=(0, 0))),
        ("flange beyond the image", Shape(12, 12), dict(shape=(4, 3), block=(2, 2), flange=(9, 9))),
        ("one block", Shape(12, 12), dict(shape=(3, 4), block=(9, 9), flange=(1, 1))),
        ("across tiles", Shape(168, 168, q=(2,), k=(1,)), dict(
            shape=(12, 14), block=(6, 6), flange=(2, 5))),
      )),
    special("image_2d", "blocks of one row, key mask", Shape(20, 20, q=(2, 3), k=(2, 1)), lambda rng: dict(
        shape=(4, 5), block=(1, 2), flange=(2, 1), key_mask=rng.random((2, 1, 20)) < 0.7, scale=0.4)),
    # lines of a grid
    *(special("axial", f"three axes, axis {axis}", Shape(20, 20), lambda rng, axis=axis: dict(
        shape=(2, 5, 2), axis=axis, causal=axis == 1)) for axis in range(3)),
    special("axial", "one axis", Shape(13, 13), lambda rng: dict(shape=(13,), axis=0)),
    special("axial", "lines of one", Shape(12, 12), lambda rng: dict(shape=(12, 1), axis=1)),
    special("axial", "an empty axis", Shape(0, 0), lambda rng: dict(shape=(3, 0, 2), axis=0)),
    special("axial", "across tiles", Shape(240, 240, q=(2,), k=(1,)), lambda rng: dict(
        shape=(1, 80, 3), axis=1, causal=True)),
    special("axial", "key mask, one K/V head", Shape(20, 20, q=(2, 3), k=(2, 1)), lambda rng: dict(
        shape=(4, 5), axis=0, causal=True, key_mask=rng.random((2, 1, 20)) < 0.7, scale=0.4)),
    # clusters
    free("routing_clusters", "nearest", lambda rng: (
        (rng.standard_normal((2, 3, 20, 4)), rng.standard_normal((5, 4)), 6), {})),
    free("routing_clusters", "centroids per head", lambda rng: (
        (rng.standard_normal((2, 3, 20, 4)), rng.standard_normal((3, 5, 4))), dict(size=1))),
    free("routing_clusters", "many level with each other", lambda rng: (
        (rng.integers(-1, 2, (3, 20, 2)).astype(float), rng.integers(-1, 2, (6, 2)).astype(float), 9), {})),
    free("routing_clusters", "NaN comes last", lambda rng: (
        (np.where(np.arange(20)[:, None] % 3, rng.standard_normal((2, 20, 4)), np.nan),
         rng.standard_normal((5, 4)), 15), {})),
    free("routing_clusters", "more than all", lambda rng: (
        (rng.standard_normal((3, 7, 4)), rng.standard_normal((2, 4)), 9), {})),
    free("routing_clusters", "no tokens", lambda rng: ((np.zeros((3, 0, 4)), rng.random((2, 4)), 9), {})),
    free("routing_clusters", "no centroids", lambda rng: ((np.zeros((3, 7, 4)), rng.random((0, 4)), 5), {})),
    special("routing", "clusters per head", Shape(13, 20), lambda rng: routes(rng, 13, 20, lead=(3,))),
    special("routing", "clusters per batch entry, causal", Shape(13, 20), lambda rng: routes(
        rng, 13, 20, lead=(2, 1)) | dict(causal=True)),
    special("routing", "clusters of queries per head, causal, one K/V head", Shape(9, 11, k=(2, 1)),
            lambda rng: dict(query_clusters=some_clusters(rng, 9, lead=(3,)), causal=True,
                             key_clusters=some_clusters(rng, 11), key_mask=rng.random((2, 1, 11)) < 0.6)),
    special("routing", "rows listed twice, in any order", Shape(20, 17), lambda rng: dict(
        query_clusters=rng.integers(0, 20, (4, 9)), key_clusters=rng.integers(0, 17, (4, 8)), causal=True)),
    special("routing", "rows in no cluster", Shape(13, 13), lambda rng: dict(
        query_clusters=[[1, 5]], key_clusters=[[0, 7, 12]])),
    special("routing", "no clusters", Shape(9, 11), lambda rng: dict(
        query_clusters=np.zeros((0, 4), int), key_clusters=np.zeros((0, 5), int))),
    special("routing", "clusters of nothing", Shape(9, 11), lambda rng: dict(
        query_clusters=np.zeros((2, 0), int), key_clusters=np.zeros((2, 3), int), causal=True)),
    special("routing", "one cluster without keys", Shape(9, 11), lambda rng: dict(
        query_clusters=[[0, 4, 5]], key_clusters=np.zeros((1, 0), int))),
    special("routing", "clusters of several tiles", Shape(150, 140, q=(2,), k=(2,)),
            lambda rng: routes(rng, 150, 140)),
    special("routing", "clusters of several tiles, causal", Shape(257, 200, q=(2,), k=(1,)),
            lambda rng: routes(rng, 257, 200, lead=(2,)) | dict(causal=True)),
    # blocks sorted softly
    free("sinkhorn_sort", "balanced", lambda rng: ((rng.standard_normal((2, 3, 6, 6)),), dict(iterations=5))),
    free("sinkhorn_sort", "noise and temperature", lambda rng: (
        (rng.standard_normal((2, 3, 6, 6)),),
        dict(iterations=8, temperature=0.75, noise=rng.gumbel(size=(3, 6, 6))))),
    free("sinkhorn_sort", "causal", lambda rng: (
        (rng.standard_normal((3, 7, 7)),), dict(iterations=3, causal=True, noise=rng.gumbel(size=(7, 7))))),
    free("sinkhorn_sort", "hidden pairs", lambda rng: (
        (scores(rng, 2, 9, 9, hide=0.6),), dict(iterations=4))),
    free("sinkhorn_sort", "far apart", lambda rng: (
        (1e3 * rng.standard_normal((6, 6)),), dict(iterations=2))),
    free("sinkhorn_sort", "one block", lambda rng: ((rng.standard_normal((2, 1, 1)),), dict(iterations=1))),
    free("sinkhorn_sort", "no blocks", lambda rng: ((np.zeros((2, 0, 0)),), dict(iterations=2, causal=True))),
    special("sinkhorn", "a sort per head", Shape(19, 19), lambda rng: block_sort(rng, 19, 4, (3,))),
    special("sinkhorn", "a sort per head, one K/V head, causal", Shape(20, 20, k=(2, 1)), lambda rng:
            block_sort(rng, 20, 5, (3,)) | dict(causal=True, key_mask=rng.random((2, 1, 20)) < 0.5)),
    special("sinkhorn", "a sort per batch entry", Shape(12, 12), lambda rng: block_sort(rng, 12, 4, (2, 1))),
    special("sinkhorn", "a permutation, a row of zeros", Shape(19, 19), lambda rng: dict(
        sort=np.eye(5)[[4, 0, 3, 2, 1]] * np.array([[1.0], [1], [0], [1], [1]]), block=4)),
    special("sinkhorn", "blocks of 1", Shape(7, 7), lambda rng: block_sort(rng, 7, 1)),
    special("sinkhorn", "block above n", Shape(7, 7), lambda rng: block_sort(rng, 7, 100)),
    special("sinkhorn", "blocks across tiles, causal", Shape(150, 150, q=(2,), k=(2,)), lambda rng:
            block_sort(rng, 150, 70) | dict(causal=True, key_mask=rng.random(150) < 0.7)),
    special("sinkhorn_cut", "a sort per head, masked", Shape(19, 19, k=(2, 1)), lambda rng: block_sort(
        rng, 19, 4, (3,)) | dict(keep=3, key_mask=rng.random((2, 1, 19)) < 0.5)),
    special("sinkhorn_cut", "more than all blocks", Shape(9, 9), lambda rng: block_sort(
        rng, 9, 4) | dict(keep=9)),
    special("sinkhorn_cut", "blocks across tiles", Shape(150, 150, q=(2,), k=(2,)), lambda rng: block_sort(
        rng, 150, 40) | dict(keep=2)),
    # sorted by bucket
    *(special("reformer", what, shape, options, call=shared_qk) for what, shape, options in (
        ("one round", Shape(19, 19), lambda rng: hashed(rng, 19, 1, chunk=4)),
        ("buckets per head", Shape(13, 13), lambda rng: hashed(rng, 13, lead=(3,), chunk=4)),
        ("buckets per batch entry, one V for all", Shape(13, 13, v=()), lambda rng: hashed(
            rng, 13, lead=(2, 1), chunk=3, key_mask=rng.random(13) < 0.7)),
        ("four rounds, all options", Shape(20, 20), lambda rng: hashed(
            rng, 20, 4, lead=(3,), chunk=3, before=2, after=1, causal=True, scale=0.4,
            key_mask=rng.random((2, 1, 20)) < 0.7)),
        ("four rounds, own bucket, all options", Shape(20, 20), lambda rng: hashed(
            rng, 20, 4, 3, lead=(2, 1), chunk=6, across_buckets=False, causal=True, scale=0.4,
            key_mask=rng.random((2, 1, 20)) < 0.7)),
        ("chunk 1", Shape(9, 9), lambda rng: hashed(rng, 9, chunk=1)),
        ("each for itself", Shape(9, 9), lambda rng: hashed(rng, 9, chunk=1, before=0)),
        ("chunk above n", Shape(9, 9), lambda rng: hashed(rng, 9, chunk=100, before=3)),
        ("window above n", Shape(13, 13), lambda rng: hashed(rng, 13, chunk=3, before=50, after=2)),
        ("many chunks", Shape(257, 257, 4, 3, (2,), (2,)), lambda rng: hashed(
            rng, 257, 3, 100, lead=(2,), chunk=1, after=1)),
        ("chunks of several tiles", Shape(200, 200, q=(2,), k=(2,)), lambda rng: hashed(
            rng, 200, lead=(2,), chunk=70, causal=True)),
        ("buckets of a byte", Shape(20, 20), lambda rng: dict(
            buckets=rng.integers(0, 255, (2, 20), np.uint8, endpoint=True), chunk=4)),
        ("buckets far apart", Shape(20, 20), lambda rng: dict(
            buckets=rng.integers(0, 4, (2, 20)) * (1 << 61), chunk=4, across_buckets=False)),
      )),
    *(free("lsh_buckets", what, lambda rng, x=x, rotations=rotations: (
        (rng.standard_normal(x), rng.standard_normal(rotations)), {})) for what, x, rotations in (
        ("rounds", (2, 3, 20, 8), (8, 3, 4)),
        ("rotations per head", (2, 3, 9, 8), (3, 8, 2, 3)),
        ("one direction", (7, 1), (1, 2, 1)),
        ("many directions", (20, 3), (3, 1, 150)),
        ("no tokens", (2, 0, 3), (3, 2, 4)),
      )),
    free("lsh_buckets", "equal products", lambda rng: (
        (rng.integers(-1, 2, (20, 3)).astype(float), np.ones((3, 2, 4))), {})),
    # low rank
    special("linformer", "wider projections", Shape(9, 11), lambda rng: projections(rng, 17)),
    special("linformer", "projections per head", Shape(9, 11), lambda rng: projections(rng, 11, lead=(3,))),
    special("linformer", "projections per batch entry", Shape(9, 11),
            lambda rng: projections(rng, 11, lead=(2, 1)) | dict(scale=0.3)),
    special("linformer", "one slot", Shape(9, 11), lambda rng: projections(rng, 11, slots=1)),
    special("linformer", "many slots", Shape(9, 11), lambda rng: projections(rng, 11, slots=150)),
    special("linformer", "K/V projected apart", Shape(9, 11), lambda rng: dict(
        key_projection=rng.standard_normal((4, 11)), value_projection=rng.standard_normal((3, 4, 13)))),
    special("linformer", "projections per head, one K/V head", Shape(9, 11, k=(2, 1)),
            lambda rng: projections(rng, 11, lead=(3,)) | dict(key_mask=rng.random((2, 1, 11)) < 0.6)),
    *(free("synthesizer", what, draw) for what, draw in (
        ("logits per head", lambda rng: (
            (rng.standard_normal((2, 1, 9, 5)), rng.standard_normal((3, 7, 9))), {})),
        ("one V for all heads", lambda rng: (
            (rng.standard_normal((9, 5)), rng.standard_normal((2, 3, 7, 9))),
            dict(key_mask=rng.random(9) < 0.6))),
        ("logits that hide", lambda rng: (
            (rng.standard_normal((2, 3, 9, 5)), scores(rng, 2, 1, 7, 9, hide=0.6)),
            dict(causal=True, key_mask=rng.random((2, 1, 9)) < 0.7))),
        ("logits of a transposed table", lambda rng: (
            (rng.standard_normal((3, 9, 5)), rng.standard_normal((3, 9, 9)).swapaxes(-1, -2)), {})),
        ("large logits", lambda rng: (
            (rng.standard_normal((9, 5)), 1e30 * rng.standard_normal((7, 9))), {})),
    )),
    *(special("memory_compressed", what, shape, options) for what, shape, options in (
        ("whole blocks alone", Shape(18, 18), lambda rng: kernels(rng, 8, 6)),
        ("every position", Shape(9, 11), lambda rng: kernels(rng, 8, 6, c=1)),
        ("one short block", Shape(9, 11), lambda rng: kernels(rng, 8, 6, c=20)),
        ("one short block, causal", Shape(9, 11), lambda rng: kernels(rng, 8, 6, c=20) | null_slot(
            rng, 8, 6) | dict(causal=True)),
        ("kernels per head, one K/V head", Shape(9, 12, k=(2, 1)), lambda rng: kernels(
            rng, 8, 6, lead=(3,)) | dict(key_mask=rng.random((2, 1, 12)) < 0.3)),
        ("kernels per entry, K/V without axes", Shape(9, 11, k=()), lambda rng: kernels(
            rng, 8, 6, lead=(2, 3)) | dict(key_mask=rng.random(11) < 0.3)),
        ("kernels with more axes than K/V", Shape(9, 11, k=(3,)), lambda rng: kernels(
            rng, 8, 6, lead=(2, 1)) | dict(key_mask=rng.random((3, 11)) < 0.3)),
        ("kernels of keys and values apart", Shape(9, 12), lambda rng: kernels(rng, 8, 6) | dict(
            value_kernel=rng.standard_normal((2, 1, 3, 6, 6)))),
        ("null slot per head", Shape(9, 11, k=()), lambda rng: kernels(rng, 8, 6) | null_slot(
            rng, 8, 6, (3,)) | dict(key_mask=rng.random(11) < 0.3)),
        ("all options", Shape(13, 20), lambda rng: kernels(rng, 8, 6, 2, (3,)) | null_slot(
            rng, 8, 6, (2, 1)) | dict(causal=True, scale=0.4, key_mask=rng.random((2, 1, 20)) < 0.4)),
        ("several tiles, causal", Shape(150, 257, q=(2,), k=(2,)), lambda rng: kernels(
            rng, 8, 6, c=2) | dict(causal=True)),
    )),
    # features
    # so many heads that keys and queries are one pass
    *(special(function, f"eight heads, {kind}, {what}", Shape(n, m, 5, 70, (8,), (8,)),
              lambda rng, options=options, m=m: options(rng) | dict(key_mask=rng.random((8, m)) < 0.7),
              size=0.3)
      for function, kind, options in (
          ("linear_transformer", "elu", lambda rng: {}), *(
              ("performer", kind, lambda rng, kind=kind: dict(
                  features=kind, projection=rng.standard_normal((12, 5))))
              for kind in ("positive", "hyperbolic", "trigonometric", "relu")))
      for what, n, m in (("more keys", 70, 130), ("more queries", 130, 66), ("no keys", 7, 0),
                         ("no queries", 0, 7))),
    special("linear_transformer", "large and small entries", Shape(20, 20), size=6.0),
    *(special("performer", f"{kind}, {what}", shape, lambda rng, kind=kind, options=options:
              options(rng) | dict(features=kind), size=0.3 if kind == "trigonometric" else 1.0)
      for kind in ("positive", "hyperbolic", "trigonometric", "relu") for what, shape, options in (
        ("projection per head", Shape(9, 11), lambda rng: dict(projection=rng.standard_normal((3, 30, 8)))),
        ("projection per batch entry", Shape(9, 11), lambda rng: dict(
            projection=rng.standard_normal((2, 1, 30, 8)), causal=True)),
        ("projection per head, one K/V head", Shape(9, 11, k=(2, 1)), lambda rng: dict(
            projection=rng.standard_normal((3, 30, 8)), key_mask=rng.random((2, 1, 11)) < 0.7)),
        ("one direction", Shape(9, 11), lambda rng: dict(projection=np.abs(rng.standard_normal((1, 8))))),
        ("many directions", Shape(15, 15), lambda rng: dict(projection=rng.standard_normal((150, 8)))),
        ("causal, scale", Shape(15, 15), lambda rng: dict(
            projection=rng.standard_normal((30, 8)), causal=True, scale=0.1)),
      )),
    special("performer", "positive, large entries", Shape(20, 20), lambda rng: dict(
        projection=rng.standard_normal((12, 8)), causal=True), size=6.0),
    # recurrence
    special("transformer_xl", "keys by distance and biases per head", Shape(13, 20, k=(2, 1)),
            lambda rng: by_distance(rng, 20, 8, lead=(3,))),
    special("transformer_xl", "content bias alone, per batch entry", Shape(13, 20), lambda rng: by_distance(
        rng, 20, 8, biases=False) | dict(content_bias=rng.standard_normal((2, 1, 8)))),
    special("transformer_xl", "position bias alone", Shape(13, 20), lambda rng: by_distance(
        rng, 20, 8, biases=False) | dict(position_bias=rng.standard_normal((3, 8)))),
    special("transformer_xl", "same length, all options", Shape(13, 20), lambda rng: by_distance(
        rng, 20, 8, lead=(3,)) | dict(same_length=True, key_mask=rng.random((2, 1, 20)) < 0.7, scale=0.3)),
    special("transformer_xl", "same length, no memory", Shape(13, 13), lambda rng: by_distance(
        rng, 13, 8) | dict(same_length=True)),
    special("transformer_xl", "several tiles", Shape(150, 170, q=(2,), k=(1,)), lambda rng: by_distance(
        rng, 170, 8) | dict(key_mask=rng.random((2, 170)) < 0.7)),
    special("transformer_xl", "several tiles, same length", Shape(180, 250, q=(2,), k=(2,)),
            lambda rng: by_distance(rng, 250, 8, lead=(2,)) | dict(same_length=True)),
    # the engine keeps half of a tile's distances for the next tile, which here is not the one beside it
    special("transformer_xl", "every other tile hidden", Shape(130, 257, q=(2,), k=(1,)),
            lambda rng: by_distance(rng, 257, 8) | dict(key_mask=np.arange(257) // 64 % 2 == 0)),
    special("compressive_transformer", "memories per head, one K/V head", Shape(13, 17, k=(2, 1)),
            lambda rng: memories(rng, 17, 8, 6, lead=(3,)) | dict(key_mask=rng.random((2, 1, 17)) < 0.7)),
    special("compressive_transformer", "memory alone", Shape(13, 13), lambda rng: memories(
        rng, 13, 8, 6, compressed=0)),
    special("compressive_transformer", "compressed memory alone", Shape(13, 13), lambda rng: memories(
        rng, 13, 8, 6, memory=0)),
    special("compressive_transformer", "no keys of its own", Shape(0, 0), lambda rng: memories(rng, 0, 8, 6)),
    special("compressive_transformer", "several tiles", Shape(130, 130, q=(2,), k=(1,)),
            lambda rng: memories(rng, 130, 8, 6, memory=70, compressed=20) | dict(
                key_mask=rng.random((2, 130)) < 0.7)),
]


def _steps(function, label, splits, shape):
    variant = VARIANTS[label]

    def draw(rng, dtype):
        n = sum(splits)
        full = shape._replace(n=n, m=n)
        return draw_qkv(rng, dtype, full, variant.size), variant.options(rng, n, n, shape.d, shape.e)

    return Case(f"{function}: {label}, {'+'.join(map(str, splits))}, {shape.q} and {shape.k}", function, draw,
                in_steps(function, splits), sum(splits) <= 20, splits == (4, 5))


CASES = [
    *(case for label, variant in VARIANTS.items() for case in _common(label, variant)),
    *SPECIAL,
    *(_steps(function, label, splits, shape) for function, labels in STEPS.items() for label in labels
      for splits, shape in (((1,), Shape(0, 0)), ((1, 1, 1), Shape(0, 0)), ((5, 1, 7), Shape(0, 0)),
                            ((4, 5), Shape(0, 0, q=(), k=())), ((3, 3), Shape(0, 0, 3, 9, k=(2, 1))),
                            ((70, 1, 66), Shape(0, 0, q=(2,), k=(2,))))),
]


def generator(case):
    """A generator of its own for each case: a new line leaves the numbers of the others as they were."""
    return np.random.default_rng(list(case.name.encode()))
