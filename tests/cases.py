"""The table of cases: every public name of both packages, with its options and the shapes it must bear.

A later paper adds one line to VARIANTS (which gives it all the COMMON cases: lengths, masks, leading axes),
lines of its own to SPECIAL for what only it can do and, if it has a streaming form, one to STEPS.

A draw is a function of a generator that returns keyword arguments; arrays are drawn as float64 and cast where
they stand in the place of q, k and v. A function among the arguments is a pattern: it is given the `patterns`
of the package under test.
"""

import functools
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


def directions(rng, d, features, rows=12, lead=()):
    return dict(projection=rng.standard_normal((*lead, rows, d)), features=features)


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
    "longformer": Variant("longformer", lambda rng, n, m, d, e: dict(window=6)),
    "longformer, global": Variant("longformer", lambda rng, n, m, d, e: dict(
        window=4, dilation=2, global_tokens=some_of(m, 0, 7, 11))),
    "linformer": Variant("linformer", lambda rng, n, m, d, e: projections(rng, m), causal=False,
                         by_key=False),
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


UNJITTED = {"square", "causal", "causal, more queries", "no keys", "e = 0", "one K/V head",
            "key mask per batch entry, garbage under it"}


def _common(label, variant):
    """All COMMON cases that `variant` can bear, and those with garbage in the keys that a mask hides."""
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
        yield _case(f"{label}: {name}", variant, shape, options, unjitted=name in UNJITTED)
        if "key_mask" in drawn:
            name += ", garbage under it"
            yield _case(f"{label}: {name}", variant, shape, options, spoil=True, unjitted=name in UNJITTED)


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


def special(function, what, shape, options=None, *, size=1.0):
    """A case of one function alone; `options` is a draw."""
    variant = Variant(function, lambda rng, n, m, d, e: {}, size=size)
    # `attention` is `attention_lse` without its second result; features take long without compilation
    unjitted = function not in ("attention", "performer")
    return _case(f"{function}: {what}", variant, shape, options or {}, unjitted=unjitted)


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
    "strided, several tiles": (lambda p: p.strided(140, 12), 140, 140),
    "summaries": (lambda p: p.summaries(20, 6, 2), 20, 20),
    "summaries, further in": (lambda p: p.summaries(20, 6, 2, 2), 20, 20),
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
    "empty": (lambda p: p.past(0), 0, 0),
}

PATTERNS_PER_HEAD = {
    "window, dilation per head": (
        lambda p: p.window(20, left=3, right=2, dilation=np.array([1, 2, 5])), 20, 20),
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
    # features
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
    # with 16 leading entries a block of queries is one tile
    special("transformer_xl", "several blocks", Shape(150, 170, q=(16,), k=(1,)), lambda rng: by_distance(
        rng, 170, 8) | dict(key_mask=rng.random((16, 170)) < 0.7)),
    special("transformer_xl", "several blocks, same length", Shape(150, 170, q=(16,), k=(1,)),
            lambda rng: by_distance(rng, 170, 8) | dict(same_length=True, key_mask=rng.random(170) < 0.7)),
    special("transformer_xl", "blocks as long as the memory", Shape(180, 250, q=(2,), k=(2,)),
            lambda rng: by_distance(rng, 250, 8, lead=(2,)) | dict(same_length=True)),
    special("compressive_transformer", "memories per head, one K/V head", Shape(13, 17, k=(2, 1)),
            lambda rng: memories(rng, 17, 8, 6, lead=(3,)) | dict(key_mask=rng.random((2, 1, 17)) < 0.7)),
    special("compressive_transformer", "memory alone", Shape(13, 13), lambda rng: memories(
        rng, 13, 8, 6, compressed=0)),
    special("compressive_transformer", "compressed memory alone", Shape(13, 13), lambda rng: memories(
        rng, 13, 8, 6, memory=0)),
    special("compressive_transformer", "no keys of its own", Shape(0, 0), lambda rng: memories(rng, 0, 8, 6)),
    special("compressive_transformer", "several blocks", Shape(130, 130, q=(16,), k=(1,)),
            lambda rng: memories(rng, 130, 8, 6, memory=70, compressed=20) | dict(
                key_mask=rng.random((16, 130)) < 0.7)),
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
