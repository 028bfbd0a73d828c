"""A second oracle for what a pattern defines: scores of its pairs alone, by scipy.sparse, head by head.

It shares neither the engine's tiles nor the dense scores of xfref. The patterns come from both packages.
"""

import numpy as np
import pytest
from cases import VARIANTS, Shape, draw_qkv, function_of, options_of
from lawbook import close, loops
from scipy.sparse import csr_array

import xfaccel
import xfref
from xfaccel.arena import measure, sparse
from xfaccel.arena.variants import VARIANTS as ROWS

HEADS = 3


def strided(p, n, m, *, stride, causal=True):
    seen = p.window(n, m, left=stride - 1, right=stride - 1) | p.strided(n, stride, m)
    return seen & p.past(n, m) if causal else seen


def fixed(p, n, m, *, stride, summary, sub_block=0, causal=True):
    seen = p.same_block(n, stride, m=m) | p.summaries(n, stride, summary, sub_block, m)
    return seen & p.past(n, m) if causal else seen


def longformer(p, n, m, *, window, dilation=1, global_tokens=()):
    band = p.window(n, m, left=window // 2, right=window // 2, dilation=dilation)
    return band | p.hubs(n, global_tokens) if global_tokens else band


def bigbird(p, n, m, *, block, random_blocks):
    # the rows of the first and last block see everything, whatever the table says
    ends = [i for i in range(n) if i < block or i // block == (n - 1) // block]
    return p.same_block(n, block, 1, 1) | p.hubs(n, ends) | p.blocks(random_blocks, block, n)


PATTERNS = {  # a variant of tests/cases.py: (patterns, n, m, its own options) -> who sees whom
    "block_local": lambda p, n, m, *, block: p.same_block(n, block, m=m),
    "block_local, neighbours": lambda p, n, m, *, block, before, after: p.same_block(
        n, block, before, after, m),
    "sliding_window": lambda p, n, m, **options: p.window(n, m, **options),
    "sliding_window, right 0": lambda p, n, m, **options: p.window(n, m, **options),
    "sliding_window, dilated": lambda p, n, m, **options: p.window(n, m, **options),
    "random_tokens": lambda p, n, m, *, indices: p.scattered(n, indices, m),
    "sparse_strided": strided,
    "sparse_strided, both sides": strided,
    "sparse_fixed": fixed,
    "sparse_fixed, both sides": fixed,
    "longformer": longformer,
    "longformer, global": longformer,
    "bigbird": bigbird,
    "axial": lambda p, n, m, *, shape, axis: p.same_block(n, shape[1]),
    "axial, columns": lambda p, n, m, *, shape, axis: p.strided(n, shape[1]),
}
PER_HEAD = {  # options of which each head has its own
    "sliding_window": dict(left=2, right=3, dilation=np.array([1, 2, 5])),
    "sparse_fixed": dict(stride=6, summary=2, sub_block=np.array([0, 1, 2])),
    "longformer": dict(window=4, dilation=np.array([1, 3, 2]), global_tokens=[0, 11]),
    "random_tokens": dict(indices=np.random.default_rng(3).integers(-1, 30, (HEADS, 30, 5))),
    "bigbird": dict(block=4, random_blocks=np.random.default_rng(4).integers(0, 8, (HEADS, 8, 2))),
}


def check(label, options, own, n, m, rng):
    """`options` are given to the variant, `own` to the pattern of each head."""
    args = draw_qkv(rng, np.float64, Shape(n, m, q=(HEADS,), k=(HEADS,)))
    out = function_of(xfaccel, label)(*args, **options)
    for p in (xfref.patterns, xfaccel.patterns):
        seen = [PATTERNS[label](p, n, m, **given) for given in own]
        seen = [csr_array(x) if isinstance(x, np.ndarray) else x.to_csr() for x in seen]
        close(out, sparse.attention(*args, seen), 1e-13)


@pytest.mark.parametrize("label, n, m", [
    (label, n, m) for n, m in [(30, 30), (130, 130), (21, 30)] for label in PATTERNS
    # hubs see and are seen within one sequence
    if VARIANTS[label].fitting(n, m) and (n == m or label != "longformer, global")])
def test_a_variant_is_attention_over_its_pattern(label, n, m, rng):
    options = options_of(label, rng, Shape(n, m))
    check(label, options, [options] * HEADS, n, m, rng)


@pytest.mark.parametrize("label", PER_HEAD)
def test_each_head_is_attention_over_its_own_pattern(label, rng):
    options = PER_HEAD[label]
    own = [{name: x[head] if isinstance(x, np.ndarray) else x for name, x in options.items()}
           for head in range(HEADS)]
    check(label, options, own, 30, 30, rng)


@pytest.mark.parametrize("row", [row for row in ROWS if row.pattern is not None], ids=lambda row: row.name)
def test_a_row_of_the_arena_is_attention_over_its_pattern(row, rng):
    """Else its time beside scipy's would compare different things."""
    qkv = draw_qkv(rng, np.float32, Shape(700, 700, 8, 8, (2,), (2,)))
    arguments = measure.drawn(row, qkv)
    seen = [row.pattern(700, head, **arguments).to_csr() for head in range(2)]
    wide = [x.astype(np.float64) for x in qkv]
    close(row.call(getattr(xfaccel, row.function), *wide, **arguments), sparse.attention(*wide, seen), 1e-13)


def test_the_oracle_is_attention(rng):
    q, k, v = draw_qkv(rng, np.float64, Shape(7, 9, q=(2,), k=(2,)))
    seen = rng.random((2, 7, 9)) < 0.4
    seen[0, [0, 3, 6]] = False  # queries that see nothing, the first and the last too
    seen[1] = False
    out = sparse.attention(q, k, v, [csr_array(x) for x in seen], scale=0.7)
    for head in range(2):
        # positions of the queries are counted from the last key
        close(out[head], loops(q[head], k[head], v[head], lambda p, j, h=head: seen[h, p - 2, j], 0.7))
