"""What every function says to a wrong argument: the error, its name, what it got and what it needs."""

import numpy as np
import pytest
from cases import STEPS, VARIANTS

import xfref

Q = np.zeros((2, 3, 9, 4))
K = np.zeros((2, 3, 11, 4))
V = np.zeros((2, 3, 11, 5))
FLAGS = np.zeros((9, 11), bool)
SLOTS = np.zeros((6, 11))
ROWS = np.ones((6, 4))
LISTS = np.zeros((9, 2), int)
KERNEL = np.zeros((3, 4, 4))
LOGITS = np.zeros((2, 3, 9, 11))
ROUTES = np.array([[0, 3, 4], [1, 3, 8]])
SORT = np.ones((3, 3))
CODES_K, CODES_V = (np.zeros(x.shape, np.int8) for x in (K, V))
PAIR_K, PAIR_V = (CODES_K, np.ones(K.shape[:-1])), (CODES_V, np.ones(V.shape[:-1]))
LSE = np.zeros((2, 3, 9))
OUT = np.zeros((2, 3, 9, 5))
OLDER = np.zeros((2, 4)), np.zeros((2, 5))

OWN = {  # parameters that a function cannot do without
    "block_local": dict(block=3), "sliding_window": dict(left=1, right=1), "longformer": dict(window=2),
    "random_tokens": dict(indices=LISTS), "sparse_strided": dict(stride=3),
    "sparse_fixed": dict(stride=4, summary=2),
    "star_ring": dict(key_embedded=np.zeros((11, 4)), value_embedded=np.zeros((11, 5)),
                      key_relay=np.zeros((1, 4)), value_relay=np.zeros((1, 5))),
    "bigbird": dict(block=3, random_blocks=np.zeros((4, 2), int)), "image_1d": dict(block=3, memory=2),
    "image_2d": dict(shape=(1, 11), block=(2, 3), flange=(1, 2)), "axial": dict(shape=(1, 11), axis=1),
    "adaptive_span": dict(span=2, ramp=3), "shaw": dict(key_table=np.zeros((5, 4))),
    "routing": dict(query_clusters=ROUTES, key_clusters=ROUTES), "sinkhorn": dict(sort=SORT, block=4),
    "sinkhorn_cut": dict(sort=SORT, block=4, keep=1),
    "linformer": dict(key_projection=SLOTS, value_projection=SLOTS),
    "memory_compressed": dict(key_kernel=KERNEL, value_kernel=np.zeros((3, 5, 5))),
    "performer": dict(projection=ROWS), "performer_step": dict(projection=ROWS),
    "transformer_xl": dict(relative_keys=np.zeros((11, 4))),
    "compressive_transformer": dict(memory=OLDER, compressed=OLDER, relative_keys=np.zeros((15, 4))),
}
# those that are called with q, k and v under these names
FUNCTIONS = sorted({variant.function for variant in VARIANTS.values() if variant.call is None})
EQUAL = sorted({variant.function for variant in VARIANTS.values()
                if variant.call is None and variant.lengths == "equal"})
DENSE = ["attention", "attention_lse"]
SCALED = [name for name in FUNCTIONS if any(x.scale for x in VARIANTS.values() if x.function == name)]


def on(function, q=None, k=K, v=V, **options):
    """The call of a function of q, k and v with one thing wrong."""
    if q is None:
        q = np.zeros((2, 3, 11, 4)) if function in EQUAL else Q
    return function, (q, k, v), OWN.get(function, {}) | options


def step(function, state=None, q=Q, k=K[..., :9, :], v=V[..., :9, :], **options):
    return function, (state, q, k, v), OWN.get(function, {}) | options


def on_etc(**wrong):
    """The call of `etc` with eleven long and three global tokens and one thing wrong."""
    args = dict(q=zeros(2, 3, 11, 4), k=K, v=V, global_q=zeros(3, 3, 4), global_k=zeros(3, 3, 4),
                global_v=zeros(3, 3, 5))
    args |= {name: wrong.pop(name) for name in args if name in wrong}
    return "etc", tuple(args.values()), dict(radius=2) | wrong


def on_reformer(qk=K, v=V, **wrong):
    """The call of `reformer` with eleven tokens and one thing wrong."""
    return "reformer", (qk, v), dict(buckets=np.zeros((2, 11), int), chunk=3) | wrong


def zeros(*shape):
    return np.zeros(shape)


def for_all(functions, error, words, **wrong):
    return [(on(function, **wrong), error, words) for function in functions]


TABLE = [  # (call, the error, words of its message)
    # q, k and v that do not fit together
    *for_all(FUNCTIONS, ValueError, ["q", "k", "width", "4", "5"], k=zeros(2, 3, 11, 5)),
    *for_all(FUNCTIONS, ValueError, ["k", "v", "length", "11", "10"], v=zeros(2, 3, 10, 5)),
    *for_all(FUNCTIONS, ValueError, ["width", "at least 1", "0"], q=zeros(9, 0), k=zeros(11, 0)),
    *for_all(FUNCTIONS, ValueError, ["q needs", "2 axes", "(4,)"], q=zeros(4)),
    *for_all(FUNCTIONS, ValueError, ["k needs", "2 axes", "(4,)"], k=zeros(4)),
    *for_all(FUNCTIONS, ValueError, ["v needs", "2 axes", "()"], v=np.zeros(())),
    *for_all(FUNCTIONS, ValueError, ["leading axes", "q, k and v", "(4, 3, 11, 4)"], k=zeros(4, 3, 11, 4)),
    *for_all(FUNCTIONS, ValueError, ["leading axes", "(2, 2, 11, 5)"], v=zeros(2, 2, 11, 5)),
    *for_all(FUNCTIONS, TypeError, ["q needs", "float32 or float64", "int64", "astype"], q=Q.astype(int)),
    *for_all(FUNCTIONS, TypeError, ["k needs the dtype of q", "float64", "float32"], k=K.astype(np.float32)),
    *for_all(FUNCTIONS, TypeError, ["v needs", "got list of length 2", "asarray"], v=V.tolist()),
    *for_all(FUNCTIONS, TypeError, ["q needs", "got str 'x'"], q="x"),
    *for_all([name for name in FUNCTIONS if name in EQUAL], ValueError,
             ["as many queries as keys", "n = 9", "m = 11"], q=Q),
    # masks and scales
    *for_all(FUNCTIONS, TypeError, ["key_mask", "boolean", "True = attend", "float64"], key_mask=np.ones(11)),
    *for_all(FUNCTIONS, TypeError, ["key_mask", "boolean", "list"], key_mask=[True] * 11),
    *for_all(FUNCTIONS, ValueError, ["key_mask", "11", "(9,)"], key_mask=np.ones(9, bool)),
    *for_all(FUNCTIONS, ValueError, ["key_mask", "(2, 11)", "(B, 1, m)"], key_mask=np.ones((2, 11), bool)),
    *for_all(FUNCTIONS, ValueError, ["key_mask", "(4, 1, 11)", "(2, 3)"], key_mask=np.ones((4, 1, 11), bool)),
    *for_all(SCALED, TypeError, ["scale", "number", "str '1'"], scale="1"),
    *for_all(SCALED, TypeError, ["scale", "number", "bool True"], scale=True),
    *for_all(SCALED, TypeError, ["scale", "number", "complex"], scale=1j),
    *for_all(SCALED, TypeError, ["scale", "number", "ndarray"], scale=np.ones(3)),
    *for_all(SCALED, ValueError, ["scale", "finite", "nan"], scale=float("nan")),
    *for_all(SCALED, ValueError, ["scale", "finite", "inf"], scale=np.inf),
    *((on(function, mask=mask), error, words) for function in DENSE for mask, error, words in [
        (FLAGS.astype(float), TypeError, ["mask", "boolean", "float64"]),
        (FLAGS.tolist(), TypeError, ["mask", "boolean", "list"]),
        (FLAGS.T, ValueError, ["mask", "9, 11)", "(11, 9)"]),
        (np.zeros((4, 9, 11), bool), ValueError, ["mask", "(2, 3)", "(4, 9, 11)"]),
        (np.zeros((2, 2, 3, 9, 11), bool), ValueError, ["mask", "(2, 3)", "(2, 2, 3, 9, 11)"]),
        (lambda p: p.window(8, 11, left=1, right=1), ValueError, ["mask", "9", "11", "(8, 11)"]),
        (lambda p: p.window(9, 11, left=1, right=1, dilation=np.array([1, 2])), ValueError,
         ["mask", "(2, 3)"]),
    ]),
    *((on(function, bias=bias), error, words) for function in DENSE for bias, error, words in [
        (FLAGS, TypeError, ["bias", "floats", "bool"]),
        (FLAGS.astype(int), TypeError, ["bias", "floats", "int64"]),
        (zeros(9, 11).tolist(), TypeError, ["bias", "floats", "list"]),
        (zeros(9, 10), ValueError, ["bias", "9", "11", "(9, 10)"]),
        (zeros(2, 9, 11), ValueError, ["bias", "(2, 3)", "(2, 9, 11)"]),
    ]),
    *((on(function, **(dict(k=PAIR_K, v=PAIR_V) | wrong)), error, words) for function in DENSE
      for wrong, error, words in [
        (dict(v=V), TypeError, ["v needs", "pair (codes, scales)", "ndarray of float64"]),
        (dict(k=K), TypeError, ["k needs", "pair (codes, scales)", "ndarray of float64"]),
        (dict(k=(CODES_K,)), TypeError, ["k needs", "pair", "tuple of length 1"]),
        (dict(k=[*PAIR_K]), TypeError, ["k needs", "pair", "list of length 2"]),
        (dict(k=(K, PAIR_K[1])), TypeError, ["k[0] needs", "int8", "float64"]),
        (dict(v=(CODES_V.tolist(), PAIR_V[1])), TypeError, ["v[0] needs", "int8", "list"]),
        (dict(v=(CODES_V.view(np.uint8), PAIR_V[1])), TypeError, ["v[0] needs", "int8", "uint8"]),
        (dict(k=(np.zeros(4, np.int8), np.ones(()))), ValueError, ["k[0] needs", "2 axes", "(4,)"]),
        (dict(k=(CODES_K, PAIR_K[1].astype(int))), TypeError, ["k[1]", "floats", "int64"]),
        (dict(v=(CODES_V, 0.5)), TypeError, ["v[1]", "floats", "float 0.5"]),
        (dict(v=(CODES_V, np.ones((2, 3, 10)))), ValueError, ["v[1]", "2, 3, 11)", "(2, 3, 10)"]),
        (dict(k=(CODES_K, np.ones(11))), ValueError, ["k[1]", "2, 3, 11)", "(11,)"]),
        (dict(k=(CODES_K, np.ones((2, 3, 11, 1)))), ValueError, ["k[1]", "2, 3, 11)", "(2, 3, 11, 1)"]),
        (dict(q=zeros(2, 3, 9, 5)), ValueError, ["q and k", "width", "5", "4"]),
        (dict(v=(CODES_V[..., :10, :], PAIR_V[1][..., :10])), ValueError, ["k and v", "length", "11", "10"]),
        (dict(q=zeros(4, 3, 9, 4)), ValueError, ["leading axes", "q, k and v", "(4, 3, 9, 4)"]),
        (dict(q=Q.astype(int)), TypeError, ["q needs", "float32 or float64", "int64"]),
        (dict(q=zeros(4)), ValueError, ["q needs", "2 axes", "(4,)"]),
        (dict(q=zeros(2, 3, 2, 4), key_mask=np.ones(9, bool)), ValueError, ["key_mask", "11", "(9,)"]),
        (dict(q=zeros(2, 3, 2, 4), scale=np.inf), ValueError, ["scale", "finite", "inf"]),
    ]),
    # quantize_rows
    (("quantize_rows", ([[1.0]],), {}), TypeError, ["x needs", "numpy.ndarray", "list"]),
    (("quantize_rows", (np.arange(3)[:, None],), {}), TypeError, ["x needs", "float32 or float64", "int64"]),
    (("quantize_rows", (zeros(4),), {}), ValueError, ["x needs", "2 axes", "(4,)"]),
    *((("quantize_rows", (np.array([[1.0, wrong], [0.0, 1.0]]),), {}), ValueError,
       ["x needs", "finite", "NaN or an infinity"]) for wrong in (np.nan, np.inf, -np.inf)),
    # softmax, layer_norm, merge
    (("softmax", ([1.0, 2.0],), {}), TypeError, ["scores", "numpy.ndarray", "list"]),
    (("softmax", (np.arange(3),), {}), TypeError, ["scores", "float32 or float64", "int64"]),
    (("softmax", (1.0,), {}), TypeError, ["scores", "float"]),
    (("layer_norm", ([1.0], np.ones(1), np.ones(1)), {}), TypeError, ["x needs", "list"]),
    (("layer_norm", (np.float64(1), np.ones(1), np.ones(1)), {}), TypeError, ["x needs", "float64"]),
    (("layer_norm", (np.zeros(()), np.ones(1), np.ones(1)), {}), ValueError, ["x needs", "1 axes", "()"]),
    (("layer_norm", (Q, np.ones(3), np.ones(4)), {}), ValueError, ["gain", "4", "(3,)"]),
    (("layer_norm", (Q, np.ones(4), np.ones((5, 4))), {}), ValueError, ["bias", "4", "(5, 4)"]),
    (("layer_norm", (Q, [1.0] * 4, np.ones(4)), {}), TypeError, ["gain", "floats", "list"]),
    (("layer_norm", (Q, np.ones(4), np.ones(4, int)), {}), TypeError, ["bias", "floats", "int64"]),
    (("merge", (OUT.tolist(), LSE, OUT, LSE), {}), TypeError, ["out_a", "list"]),
    (("merge", (OUT, LSE, OUT.tolist(), LSE), {}), TypeError, ["out_b", "list"]),
    (("merge", (OUT, LSE.astype(int), OUT, LSE), {}), TypeError, ["lse_a", "int64"]),
    (("merge", (OUT, LSE, OUT, LSE.astype(np.float32)), {}), TypeError, ["lse_b", "float64", "float32"]),
    (("merge", (OUT, LSE, OUT.astype(np.float32), LSE), {}), TypeError, ["out_b", "float64", "float32"]),
    (("merge", (OUT, LSE[..., :8], OUT, LSE), {}), ValueError, ["lse_a", "(2, 3, 9)", "(2, 3, 8)"]),
    (("merge", (OUT, LSE, OUT[..., :1], LSE), {}), ValueError, ["out_b", "(2, 3, 9, 5)", "(2, 3, 9, 1)"]),
    (("merge", (OUT, LSE, OUT[:1], LSE[:1]), {}), ValueError, ["out_b", "(2, 3, 9, 5)", "(1, 3, 9, 5)"]),
    (("merge", (OUT, LSE, OUT, LSE[..., None]), {}), ValueError, ["lse_b", "(2, 3, 9)", "(2, 3, 9, 1)"]),
    (("merge", (zeros(5), zeros(1), OUT, LSE), {}), ValueError, ["out_a needs", "2 axes", "(5,)"]),
    # the patterns
    *(((f"patterns.{name}", args, kwargs), error, words) for name, args, kwargs, error, words in [
        ("past", (-1,), {}, ValueError, ["n needs", "at least 0", "-1"]),
        ("past", (2.0,), {}, TypeError, ["n needs", "integer", "float 2.0"]),
        ("past", (3, "4"), {}, TypeError, ["m needs", "integer", "str '4'"]),
        ("window", (4,), dict(left=-1, right=0), ValueError, ["left", "at least 0", "-1"]),
        ("window", (4,), dict(left=1, right=True), TypeError, ["right", "integer", "bool True"]),
        ("window", (4,), dict(left=1, right=1, dilation=0), ValueError, ["dilation", "at least 1", "0"]),
        ("window", (4,), dict(left=1, right=1, dilation=1.5), TypeError, ["dilation", "integer", "1.5"]),
        ("window", (4,), dict(left=1, right=1, dilation=[1, 0]), ValueError, ["dilation", "at least 1", "0"]),
        ("same_block", (4, 0), {}, ValueError, ["block", "at least 1", "0"]),
        ("same_block", (4, 2, -1), {}, ValueError, ["before", "at least 0", "-1"]),
        ("same_block", (4, 2, 0, 0.5), {}, TypeError, ["after", "integer", "0.5"]),
        ("hubs", (4, [4]), {}, ValueError, ["positions", "0..3", "4"]),
        ("hubs", (4, [-1]), {}, ValueError, ["positions", "0..3", "-1"]),
        ("hubs", (4, [0.5]), {}, TypeError, ["positions", "integers", "list"]),
        ("hubs", (0, [0]), {}, ValueError, ["positions", "0"]),
        ("strided", (4, 0), {}, ValueError, ["stride", "at least 1", "0"]),
        ("strided", (4, 2, -1), {}, ValueError, ["m needs", "at least 0", "-1"]),
        ("summaries", (4, 2, 3), {}, ValueError, ["summary", "stride", "2", "3"]),
        ("summaries", (4, 4, 0), {}, ValueError, ["summary", "at least 1", "0"]),
        ("summaries", (4, 4, 2, 2), {}, ValueError, ["sub_block", "stride", "4", "2"]),
        ("summaries", (4, 4, 2, -1), {}, ValueError, ["sub_block", "at least 0", "-1"]),
        ("summaries", (4, 4, 2, 0, 4.0), {}, TypeError, ["m needs", "integer", "float 4.0"]),
        ("blocks", ([[0]], 4, 4), {}, TypeError, ["table", "integers", "list"]),
        ("blocks", (np.zeros((2, 1), int), 4, 4), {}, ValueError, ["table", "(..., 1, r)", "(2, 1)"]),
        ("blocks", (np.ones((1, 1), int), 4, 4), {}, ValueError, ["table", "-1..0", "1"]),
        ("blocks", (np.zeros((1, 1)), 4, 4), {}, TypeError, ["table", "integers", "float64"]),
        ("blocks", (np.zeros((0, 1), int), 4, -1), {}, ValueError, ["n needs", "at least 0", "-1"]),
        ("scattered", (2, np.array([[0], [2]])), {}, ValueError, ["indices", "-1..1", "2"]),
        ("scattered", (2, np.array([[0], [-2]])), {}, ValueError, ["indices", "-1..1", "-2"]),
        ("scattered", (2, np.array([0, 1])), {}, ValueError, ["indices", "(..., 2, r)", "(2,)"]),
        ("scattered", (2, np.zeros((2, 1), bool)), {}, TypeError, ["indices", "integers", "bool"]),
        ("scattered", (-1, np.zeros((0, 1), int)), {}, ValueError, ["n needs", "at least 0", "-1"]),
    ]),
    # block_local
    (on("block_local", block=0), ValueError, ["block", "at least 1", "0"]),
    (on("block_local", block=2.5), TypeError, ["block", "integer", "float 2.5"]),
    (on("block_local", block=True), TypeError, ["block", "integer", "bool True"]),
    (on("block_local", block=None), TypeError, ["block", "integer", "None"]),
    (on("block_local", before=-1), ValueError, ["before", "at least 0", "-1"]),
    (on("block_local", after="1"), TypeError, ["after", "integer", "str '1'"]),
    # sliding_window
    (on("sliding_window", left=-1), ValueError, ["left", "at least 0", "-1"]),
    (on("sliding_window", left=1.0), TypeError, ["left", "integer", "float 1.0"]),
    (on("sliding_window", right=-2), ValueError, ["right", "at least 0", "-2"]),
    (on("sliding_window", dilation=0), ValueError, ["dilation", "at least 1", "0"]),
    (on("sliding_window", dilation=[1, 2]), ValueError, ["dilation", "(3,)", "(2,)"]),
    (on("sliding_window", dilation=np.ones((2, 3), int)), ValueError, ["dilation", "(3,)", "(2, 3)"]),
    (on("sliding_window", dilation=[1, 0, 2]), ValueError, ["dilation", "at least 1", "0"]),
    (on("sliding_window", dilation=np.ones(3)), TypeError, ["dilation", "integer", "float64"]),
    (on("sliding_window", q=Q[0, 0], k=K[0, 0], v=V[0, 0], dilation=[1, 2, 3]), ValueError,
     ["dilation", "(3,)"]),
    # random_tokens
    (on("random_tokens", indices=LISTS.tolist()), TypeError, ["indices", "integers", "list"]),
    (on("random_tokens", indices=LISTS.astype(float)), TypeError, ["indices", "integers", "float64"]),
    (on("random_tokens", indices=LISTS.astype(bool)), TypeError, ["indices", "integers", "bool"]),
    (on("random_tokens", indices=LISTS[:8]), ValueError, ["indices", "(..., 9, r)", "(8, 2)"]),
    (on("random_tokens", indices=LISTS[:, 0]), ValueError, ["indices", "(..., 9, r)", "(9,)"]),
    (on("random_tokens", indices=LISTS + 11), ValueError, ["indices", "-1..10", "11"]),
    (on("random_tokens", indices=LISTS - 2), ValueError, ["indices", "-1..10", "-2"]),
    (on("random_tokens", indices=np.zeros((2, 9, 2), int)), ValueError, ["indices", "(2, 3)", "(2, 9, 2)"]),
    (on("random_tokens", indices=np.zeros((4, 2, 3, 9, 2), int)), ValueError, ["indices", "(4, 2, 3, 9, 2)"]),
    # star_ring
    (on("star_ring", q=Q), ValueError, ["n = 9", "m = 11"]),
    (on("star_ring", key_embedded=zeros(9, 4)), ValueError, ["key_embedded", "11, 4)", "(9, 4)"]),
    (on("star_ring", key_embedded=zeros(2, 11, 4)), ValueError, ["key_embedded", "(2, 3)", "(2, 11, 4)"]),
    (on("star_ring", key_embedded=zeros(11, 4).tolist()), TypeError, ["key_embedded", "floats", "list"]),
    (on("star_ring", value_embedded=zeros(11, 4)), ValueError, ["value_embedded", "11, 5)", "(11, 4)"]),
    (on("star_ring", value_embedded=LISTS), TypeError, ["value_embedded", "floats", "int64"]),
    (on("star_ring", key_relay=zeros(4)), ValueError, ["key_relay", "1, 4)", "(4,)"]),
    (on("star_ring", key_relay=zeros(2, 4)), ValueError, ["key_relay", "1, 4)", "(2, 4)"]),
    (on("star_ring", value_relay=zeros(11, 5)), ValueError, ["value_relay", "1, 5)", "(11, 5)"]),
    (on("star_ring", value_relay=None), TypeError, ["value_relay", "floats", "None"]),
    # sparse_strided, sparse_fixed
    *((on(function, **wrong), error, words) for function in ("sparse_strided", "sparse_fixed")
      for wrong, error, words in [
        (dict(stride=0), ValueError, ["stride", "at least 1", "0"]),
        (dict(stride=2.0), TypeError, ["stride", "integer", "float 2.0"]),
        (dict(stride=True), TypeError, ["stride", "integer", "bool True"]),
        (dict(part="both"), ValueError, ["part", "'local', 'summary' or 'merged'", "'both'"]),
        (dict(part=None), ValueError, ["part", "'local', 'summary' or 'merged'", "None"]),
    ]),
    (on("sparse_fixed", summary=0), ValueError, ["summary", "at least 1", "0"]),
    (on("sparse_fixed", summary="1"), TypeError, ["summary", "integer", "str '1'"]),
    (on("sparse_fixed", summary=5, part="local"), ValueError, ["summary", "stride = 4", "summary = 5"]),
    (on("sparse_fixed", sub_block=2), ValueError, ["sub_block = 2", "summary = 2", "stride = 4"]),
    (on("sparse_fixed", sub_block=-1), ValueError, ["sub_block", "at least 0", "-1"]),
    (on("sparse_fixed", sub_block=0.5), TypeError, ["sub_block", "integer", "0.5"]),
    (on("sparse_fixed", sub_block=[0, 1]), ValueError, ["sub_block", "(3,)", "(2,)"]),
    (on("sparse_fixed", sub_block=[0, 1, 2]), ValueError, ["sub_block", "stride = 4", "sub_block = 2"]),
    (on("sparse_fixed", sub_block=np.zeros((2, 3), int)), ValueError, ["sub_block", "(3,)", "(2, 3)"]),
    # longformer
    (on("longformer", window=3), ValueError, ["window", "even", "3"]),
    (on("longformer", window=-2), ValueError, ["window", "at least 0", "-2"]),
    (on("longformer", window=2.0), TypeError, ["window", "integer", "float 2.0"]),
    (on("longformer", dilation=0), ValueError, ["dilation", "at least 1", "0"]),
    (on("longformer", dilation=[1, 2]), ValueError, ["dilation", "(3,)", "(2,)"]),
    (on("longformer", global_tokens=[11]), ValueError, ["global_tokens", "0..10", "11"]),
    (on("longformer", global_tokens=[-1]), ValueError, ["global_tokens", "0..10", "-1"]),
    (on("longformer", global_tokens=[0.5]), TypeError, ["global_tokens", "integers", "list"]),
    (on("longformer", global_tokens=np.ones(9, bool)), ValueError, ["global_tokens", "11", "(9,)"]),
    (on("longformer", global_tokens=np.ones((2, 11), bool)), ValueError,
     ["global_tokens", "(2, 3)", "(2, 11)"]),
    (on("longformer", global_q=zeros(2, 3, 11, 4)), ValueError, ["global_q", "9, 4)", "11, 4)"]),
    (on("longformer", global_k=zeros(2, 3, 11, 5)), ValueError, ["global_k", "11, 4)", "11, 5)"]),
    (on("longformer", global_v=zeros(2, 3, 11, 4)), ValueError, ["global_v", "11, 5)", "11, 4)"]),
    (on("longformer", global_q=Q.astype(np.float32)), TypeError, ["global_q", "float64", "float32"]),
    (on("longformer", global_q=Q.tolist()), TypeError, ["global_q", "list"]),
    (on("longformer", q=zeros(9, 4), k=zeros(11, 4), v=zeros(11, 5), global_k=zeros(10, 4)), ValueError,
     ["global_k", "11, 4)", "(10, 4)"]),
    (on("longformer", global_q=zeros(4)), ValueError, ["global_q needs", "2 axes", "(4,)"]),
    (on("longformer", global_q=zeros(5, 3, 9, 4)), ValueError, ["global_q", "(5, 3"]),
    (on("longformer", global_k=zeros(4, 2, 3, 11, 4)), ValueError, ["global_k", "(4, 2, 3"]),
    # etc
    (on_etc(q=Q), ValueError, ["n = 9", "m = 11"]),
    (on_etc(k=K.tolist()), TypeError, ["k needs", "list", "asarray"]),
    (on_etc(v=zeros(2, 3, 10, 5)), ValueError, ["k and v", "11", "10"]),
    (on_etc(radius=-1), ValueError, ["radius", "at least 0", "-1"]),
    (on_etc(radius=2.0), TypeError, ["radius", "integer", "float 2.0"]),
    (on_etc(global_q=zeros(3, 3, 4).tolist()), TypeError, ["global_q needs", "list", "asarray"]),
    (on_etc(global_k=zeros(3, 3, 4).astype(np.float32)), TypeError,
     ["global_k needs the dtype of q", "float64", "float32"]),
    (on_etc(global_v=None), TypeError, ["global_v needs", "None"]),
    (on_etc(global_q=zeros(4)), ValueError, ["global_q needs", "2 axes", "(4,)"]),
    (on_etc(global_q=zeros(3, 3, 5)), ValueError, ["global_q", "3, 4)", "(3, 3, 5)"]),
    (on_etc(global_k=zeros(3, 2, 4)), ValueError, ["global_k", "3, 4)", "(3, 2, 4)"]),
    (on_etc(global_v=zeros(3, 3, 4)), ValueError, ["global_v", "3, 5)", "(3, 3, 4)"]),
    (on_etc(global_k=zeros(4, 3, 4)), ValueError, ["leading axes", "(4, 3, 4)"]),
    (on_etc(long_bias=zeros(11, 4)), ValueError, ["long_bias", "11, 5)", "(11, 4)"]),
    (on_etc(long_bias=zeros(1, 5)), ValueError, ["long_bias", "11, 5)", "(1, 5)"]),
    (on_etc(long_bias=zeros(2, 11, 5)), ValueError, ["long_bias", "(2, 3)", "(2, 11, 5)"]),
    (on_etc(long_to_global_bias=zeros(3, 11)), ValueError, ["long_to_global_bias", "11, 3)", "(3, 11)"]),
    (on_etc(global_bias=zeros(3, 11)), ValueError, ["global_bias", "3, 3)", "(3, 11)"]),
    (on_etc(global_to_long_bias=zeros(11, 3)), ValueError, ["global_to_long_bias", "3, 11)", "(11, 3)"]),
    (on_etc(global_bias=zeros(3, 3) > 0), TypeError, ["global_bias", "floats", "bool"]),
    (on_etc(key_mask=np.ones((2, 11), bool)), ValueError, ["key_mask", "(2, 11)", "(B, 1, m)"]),
    (on_etc(key_mask=np.ones(3, bool)), ValueError, ["key_mask", "11", "(3,)"]),
    (on_etc(global_key_mask=np.ones(11, bool)), ValueError, ["global_key_mask", "3", "(11,)"]),
    (on_etc(global_key_mask=np.ones((2, 1, 3), bool)), ValueError,
     ["global_key_mask needs", "k.ndim - 1 = 2", "(2, 1, 3)", "global_key_mask[:, None, :]"]),
    (on_etc(global_key_mask=[True] * 3), TypeError, ["global_key_mask", "boolean", "list"]),
    (on_etc(long_seen_by_global=K), TypeError, ["long_seen_by_global", "pair", "ndarray"]),
    (on_etc(long_seen_by_global=(K,)), TypeError, ["long_seen_by_global", "pair", "tuple of length 1"]),
    (on_etc(long_seen_by_global=(K, K)), ValueError, ["long_seen_by_global[1]", "11, 5)", "(2, 3, 11, 4)"]),
    (on_etc(global_seen_by_long=(zeros(2, 4), zeros(3, 5))), ValueError,
     ["global_seen_by_long[0]", "3, 4)", "(2, 4)"]),
    (on_etc(global_seen_by_long=(zeros(3, 4), None)), TypeError, ["global_seen_by_long[1]", "None"]),
    (on_etc(global_seen_by_long=(zeros(3, 4).astype(np.float32), zeros(3, 5))), TypeError,
     ["global_seen_by_long[0]", "float64", "float32"]),
    (on_etc(global_seen_by_long=(zeros(5, 3, 4), zeros(3, 5))), ValueError,
     ["global_seen_by_long[0]", "(2, 3)", "(5, 3, 4)"]),
    (on_etc(scale=np.inf), ValueError, ["scale", "finite", "inf"]),
    # bigbird
    (on("bigbird", q=Q), ValueError, ["n = 9", "m = 11"]),
    (on("bigbird", block=0), ValueError, ["block", "at least 1", "0"]),
    (on("bigbird", block=3.0), TypeError, ["block", "integer", "float 3.0"]),
    (on("bigbird", block=4), ValueError, ["random_blocks", "3, any)", "(4, 2)"]),
    (on("bigbird", random_blocks=None), TypeError, ["random_blocks", "integers", "None"]),
    (on("bigbird", random_blocks=[[0]] * 4), TypeError, ["random_blocks", "integers", "list"]),
    (on("bigbird", random_blocks=zeros(4, 2)), TypeError, ["random_blocks", "integers", "float64"]),
    (on("bigbird", random_blocks=np.zeros((4, 2), bool)), TypeError, ["random_blocks", "integers", "bool"]),
    (on("bigbird", random_blocks=np.zeros(4, int)), ValueError, ["random_blocks", "4, any)", "(4,)"]),
    (on("bigbird", random_blocks=np.zeros((2, 4, 2), int)), ValueError,
     ["random_blocks", "(2, 3)", "(2, 4, 2)"]),
    (on("bigbird", random_blocks=np.full((4, 2), 4)), ValueError, ["random_blocks", "0..3", "4"]),
    (on("bigbird", random_blocks=np.full((4, 2), -1)), ValueError, ["random_blocks", "0..3", "-1"]),
    # adaptive_span
    (on("adaptive_span", q=zeros(2, 3, 12, 4)), ValueError, ["as many keys as queries", "n = 12", "m = 11"]),
    (on("adaptive_span", span=-1), ValueError, ["span", "at least 0", "-1"]),
    (on("adaptive_span", span=float("nan")), ValueError, ["span", "finite", "nan"]),
    (on("adaptive_span", span=np.array([np.inf])), ValueError, ["span", "finite", "inf"]),
    (on("adaptive_span", span=np.array([[1.0], [2.0], [-0.5]])), ValueError, ["span", "at least 0", "-0.5"]),
    (on("adaptive_span", span=True), TypeError, ["span", "number", "bool True"]),
    (on("adaptive_span", span="2"), TypeError, ["span", "number", "str '2'"]),
    (on("adaptive_span", span=[1.0, 2.0]), TypeError, ["span", "numpy.ndarray", "list"]),
    (on("adaptive_span", span=np.array([1.0, 2.0, 3.0])), ValueError, ["span", "9)", "(3,)"]),
    (on("adaptive_span", span=np.ones((4, 1))), ValueError, ["span", "(2, 3)", "(4, 1)"]),
    (on("adaptive_span", ramp=0), ValueError, ["ramp", "positive", "0"]),
    (on("adaptive_span", ramp=-2.0), ValueError, ["ramp", "positive", "-2.0"]),
    (on("adaptive_span", ramp=np.inf), ValueError, ["ramp", "finite", "inf"]),
    (on("adaptive_span", ramp=None), TypeError, ["ramp", "number", "None"]),
    (on("adaptive_span", ramp=np.ones(3)), TypeError, ["ramp", "number", "ndarray"]),
    (on("adaptive_span", position_keys=zeros(7, 5)), ValueError, ["position_keys", "4", "(7, 5)"]),
    (on("adaptive_span", position_keys=zeros(4)), ValueError, ["position_keys", "(4,)"]),
    (on("adaptive_span", position_keys=zeros(0, 4)), ValueError, ["position_keys", "at least 1 row", "0"]),
    (on("adaptive_span", position_keys=zeros(2, 7, 4)), ValueError,
     ["position_keys", "(2, 3)", "(2, 7, 4)"]),
    (on("adaptive_span", position_keys=ROWS.astype(int)), TypeError, ["position_keys", "floats", "int64"]),
    # shaw
    (on("shaw", key_table=zeros(4, 4)), ValueError, ["key_table", "odd", "2c + 1", "4"]),
    (on("shaw", key_table=zeros(0, 4)), ValueError, ["key_table", "odd", "0"]),
    (on("shaw", key_table=zeros(5, 3)), ValueError, ["key_table", "4", "(5, 3)"]),
    (on("shaw", key_table=zeros(4)), ValueError, ["key_table", "(4,)"]),
    (on("shaw", key_table=zeros(2, 5, 4)), ValueError, ["key_table", "(2, 3)", "(2, 5, 4)"]),
    (on("shaw", key_table=zeros(5, 4).tolist()), TypeError, ["key_table", "floats", "list"]),
    (on("shaw", value_table=zeros(5, 4)), ValueError, ["value_table", "5, 5)", "(5, 4)"]),
    (on("shaw", value_table=zeros(7, 5)), ValueError, ["value_table", "5, 5)", "(7, 5)"]),
    (on("shaw", value_table=zeros(2, 5, 5)), ValueError, ["value_table", "(2, 3)", "(2, 5, 5)"]),
    (on("shaw", value_table=np.ones((5, 5), int)), TypeError, ["value_table", "floats", "int64"]),
    # image_1d, image_2d, axial
    (on("image_1d", block=0), ValueError, ["block", "at least 1", "0"]),
    (on("image_1d", block=2.0), TypeError, ["block", "integer", "float 2.0"]),
    (on("image_1d", memory=-1), ValueError, ["memory", "at least 0", "-1"]),
    (on("image_1d", memory=None), TypeError, ["memory", "integer", "None"]),
    *((on(function, shape=shape), error, words) for function in ("image_2d", "axial")
      for shape, error, words in [
        ((2, 5), ValueError, ["shape", "n = 11", "(2, 5)", "10"]),
        ((-1, -11), ValueError, ["shape", "at least 0", "-1"]),
        ((1, 11.0), TypeError, ["shape", "integer", "float 11.0"]),
        (11, TypeError, ["shape", "tuple of integers", "int 11"]),
      ]),
    (on("image_2d", shape=(1, 1, 11)), ValueError, ["shape", "2 integers", "3"]),
    (on("image_2d", block=4), TypeError, ["block", "tuple of integers", "int 4"]),
    (on("image_2d", block=(4,)), ValueError, ["block", "2 integers", "1"]),
    (on("image_2d", block=(4, 0)), ValueError, ["block", "at least 1", "0"]),
    (on("image_2d", flange=(0, -1)), ValueError, ["flange", "at least 0", "-1"]),
    (on("image_2d", flange=(0, 1, 2)), ValueError, ["flange", "2 integers", "3"]),
    (on("image_2d", flange=(0, True)), TypeError, ["flange", "integer", "bool True"]),
    (on("image_2d", flange="ab"), TypeError, ["flange", "integer", "str 'a'"]),
    (on("axial", axis=2), ValueError, ["axis", "below 2", "got 2"]),
    (on("axial", axis=-3), ValueError, ["axis", "at least -2", "-3"]),
    (on("axial", axis=None), TypeError, ["axis", "integer", "None"]),
    # reformer
    *((on_reformer(**wrong), error, words) for wrong, error, words in [
        (dict(v=zeros(11)), ValueError, ["v needs", "2 axes", "(11,)"]),
        (dict(qk=K.tolist()), TypeError, ["qk needs", "list", "asarray"]),
        (dict(qk=K.astype(int)), TypeError, ["qk needs", "float32 or float64", "int64"]),
        (dict(qk=zeros(11)), ValueError, ["qk needs", "2 axes", "(11,)"]),
        (dict(qk=zeros(11, 0)), ValueError, ["width", "at least 1", "0"]),
        (dict(v=V.astype(np.float32)), TypeError, ["v needs the dtype of qk", "float64", "float32"]),
        (dict(v=V.tolist()), TypeError, ["v needs", "list"]),
        (dict(v=V[..., :10, :]), ValueError, ["qk and v", "length", "n = 11 and m = 10"]),
        (dict(v=zeros(2, 2, 11, 5)), ValueError, ["leading axes of qk and v", "(2, 2, 11, 5)"]),
        (dict(buckets=[[0] * 11]), TypeError, ["buckets", "integers", "list"]),
        (dict(buckets=np.zeros((2, 11))), TypeError, ["buckets", "integers", "float64"]),
        (dict(buckets=np.zeros((2, 11), bool)), TypeError, ["buckets", "integers", "bool"]),
        (dict(buckets=np.zeros(11, int)), ValueError, ["buckets", "(lead..., any, 11)", "(11,)"]),
        (dict(buckets=np.zeros((2, 10), int)), ValueError, ["buckets", "11", "(2, 10)"]),
        (dict(buckets=np.zeros((4, 2, 11), int)), ValueError, ["buckets", "(2, 3)", "(4, 2, 11)"]),
        (dict(buckets=np.zeros((0, 11), int)), ValueError, ["buckets", "at least 1 round", "0"]),
        (dict(buckets=np.eye(2, 11, dtype=int) - 1), ValueError, ["buckets", "at least 0", "-1"]),
        (dict(chunk=0), ValueError, ["chunk", "at least 1", "0"]),
        (dict(chunk=2.0), TypeError, ["chunk", "integer", "float 2.0"]),
        (dict(before=-1), ValueError, ["before", "at least 0", "-1"]),
        (dict(after=True), TypeError, ["after", "integer", "bool True"]),
        (dict(key_mask=np.ones(11)), TypeError, ["key_mask", "boolean", "float64"]),
        (dict(key_mask=np.ones((2, 11), bool)), ValueError, ["key_mask", "(2, 11)", "(B, 1, m)"]),
        (dict(scale="1"), TypeError, ["scale", "number", "str '1'"]),
        (dict(qk=zeros(0, 4), v=zeros(0, 5), buckets=np.zeros((2, 0), int), scale=np.nan), ValueError,
         ["scale", "finite", "nan"]),
    ]),
    *((("lsh_buckets", args, {}), error, words) for args, error, words in [
        ((K.tolist(), zeros(4, 2, 3)), TypeError, ["x needs", "list", "asarray"]),
        ((zeros(4), zeros(4, 2, 3)), ValueError, ["x needs", "2 axes", "(4,)"]),
        ((K, zeros(5, 2, 3)), ValueError, ["rotations", "4, any, any)", "(5, 2, 3)"]),
        ((K, zeros(4, 3)), ValueError, ["rotations", "(4, 3)"]),
        ((K, zeros(2, 4, 2, 3)), ValueError, ["rotations", "(2, 3)", "(2, 4, 2, 3)"]),
        ((K, zeros(4, 0, 3)), ValueError, ["rotations", "at least 1 round", "(4, 0, 3)"]),
        ((K, zeros(4, 2, 0)), ValueError, ["rotations", "1 direction", "(4, 2, 0)"]),
        ((K, np.zeros((4, 2, 3), int)), TypeError, ["rotations", "floats", "int64"]),
        ((K, zeros(4, 2, 3).tolist()), TypeError, ["rotations", "floats", "list"]),
    ]),
    # linformer
    (on("linformer", key_projection=zeros(6, 10)), ValueError, ["key_projection", "at least m = 11", "10"]),
    (on("linformer", value_projection=zeros(6, 9)), ValueError, ["value_projection", "at least m = 11", "9"]),
    (on("linformer", value_projection=zeros(5, 11)), ValueError,
     ["key_projection", "value_projection", "6", "5"]),
    (on("linformer", key_projection=zeros(11)), ValueError, ["key_projection", "(11,)"]),
    (on("linformer", key_projection=zeros(2, 6, 11)), ValueError, ["key_projection", "(2, 3)", "(2, 6, 11)"]),
    (on("linformer", key_projection=SLOTS.astype(int)), TypeError, ["key_projection", "floats", "int64"]),
    (on("linformer", value_projection=SLOTS.tolist()), TypeError, ["value_projection", "floats", "list"]),
    # synthesizer
    *((("synthesizer", args, kwargs), error, words) for args, kwargs, error, words in [
        ((V.tolist(), LOGITS), {}, TypeError, ["v needs", "list", "asarray"]),
        ((V, LOGITS.tolist()), {}, TypeError, ["logits needs", "list", "asarray"]),
        ((V, LOGITS.astype(int)), {}, TypeError, ["logits needs", "int64", "astype"]),
        ((V, LOGITS.astype(np.float32)), {}, TypeError, ["logits", "dtype of v", "float64", "float32"]),
        ((zeros(5), LOGITS), {}, ValueError, ["v needs", "2 axes", "(5,)"]),
        ((V, zeros(11)), {}, ValueError, ["logits needs", "2 axes", "(11,)"]),
        ((V, LOGITS[..., :10]), {}, ValueError, ["logits", "column", "11", "10"]),
        ((V, zeros(4, 3, 9, 11)), {}, ValueError, ["leading axes", "v and logits", "(4, 3, 9, 11)"]),
        ((V, LOGITS), dict(key_mask=np.ones(9, bool)), ValueError, ["key_mask", "11", "(9,)"]),
        ((V, LOGITS), dict(key_mask=np.ones(11)), TypeError, ["key_mask", "boolean", "float64"]),
    ]),
    # memory_compressed
    (on("memory_compressed", key_kernel=zeros(3, 4, 5)), ValueError, ["key_kernel", "any, 4, 4", "4, 5)"]),
    (on("memory_compressed", key_kernel=zeros(4, 4)), ValueError, ["key_kernel", "(4, 4)"]),
    (on("memory_compressed", key_kernel=zeros(2, 3, 4, 4)), ValueError,
     ["key_kernel", "(2, 3)", "(2, 3, 4, 4)"]),
    (on("memory_compressed", value_kernel=KERNEL), ValueError, ["value_kernel", "any, 5, 5", "4, 4)"]),
    (on("memory_compressed", value_kernel=zeros(2, 5, 5)), ValueError, ["key_kernel", "3 and 2"]),
    (on("memory_compressed", key_kernel=zeros(0, 4, 4), value_kernel=zeros(0, 5, 5)), ValueError,
     ["key_kernel", "at least 1", "0"]),
    (on("memory_compressed", key_kernel=KERNEL.astype(int)), TypeError, ["key_kernel", "floats", "int64"]),
    (on("memory_compressed", value_kernel=KERNEL.tolist()), TypeError, ["value_kernel", "floats", "list"]),
    (on("memory_compressed", null_key=zeros(1, 4)), ValueError, ["null_key and null_value", "together"]),
    (on("memory_compressed", null_value=zeros(1, 5)), ValueError, ["null_key and null_value", "together"]),
    (on("memory_compressed", null_key=zeros(4), null_value=zeros(1, 5)), ValueError, ["null_key", "(4,)"]),
    (on("memory_compressed", null_key=zeros(1, 4), null_value=zeros(2, 5)), ValueError,
     ["null_value", "1, 5", "(2, 5)"]),
    (on("memory_compressed", null_key=zeros(1, 4), null_value=zeros(2, 1, 5)), ValueError,
     ["null_value", "(2, 3)", "(2, 1, 5)"]),
    # performer
    (on("performer", projection=zeros(6, 5)), ValueError, ["projection", "4", "(6, 5)"]),
    (on("performer", projection=zeros(4)), ValueError, ["projection", "(4,)"]),
    (on("performer", projection=zeros(0, 4)), ValueError, ["projection", "at least 1 row", "0"]),
    (on("performer", projection=zeros(2, 6, 4)), ValueError, ["projection", "(2, 3)", "(2, 6, 4)"]),
    (on("performer", projection=ROWS.astype(int)), TypeError, ["projection", "floats", "int64"]),
    (on("performer", projection=ROWS.tolist()), TypeError, ["projection", "floats", "list"]),
    (on("performer", features="softmax"), ValueError, ["features", "positive", "trigonometric", "'softmax'"]),
    (on("performer", features=None), ValueError, ["features", "positive", "None"]),
    (on("performer", scale=0), ValueError, ["scale", "positive", "0"]),
    (on("performer", scale=-1.0), ValueError, ["scale", "positive", "-1.0"]),
    # routing
    (("routing_clusters", (Q.tolist(), ROWS, 2), {}), TypeError, ["x needs", "list"]),
    (("routing_clusters", (zeros(4), ROWS, 2), {}), ValueError, ["x needs", "2 axes", "(4,)"]),
    (("routing_clusters", (Q, zeros(6, 5), 2), {}), ValueError, ["centroids", "4", "(6, 5)"]),
    (("routing_clusters", (Q, zeros(2, 6, 4), 2), {}), ValueError, ["centroids", "(2, 3)", "(2, 6, 4)"]),
    (("routing_clusters", (Q, ROWS.tolist(), 2), {}), TypeError, ["centroids", "floats", "list"]),
    (("routing_clusters", (Q, ROWS, 0), {}), ValueError, ["size", "at least 1", "0"]),
    (("routing_clusters", (Q, ROWS, 2.0), {}), TypeError, ["size", "integer", "2.0"]),
    *((on("routing", **{f"{name}_clusters": x}), error, [f"{name}_clusters", *words])
      for name, size in (("query", 9), ("key", 11)) for x, error, words in [
        (ROUTES + size - 8, ValueError, [f"0..{size - 1}", str(size)]),
        (ROUTES - 1, ValueError, [f"0..{size - 1}", "-1"]),
        (ROUTES.astype(float), TypeError, ["integers", "float64"]),
        (ROUTES > 2, TypeError, ["integers", "bool"]),
        (ROUTES[0], ValueError, ["any, any", "(3,)"]),
        (np.stack([ROUTES, ROUTES]), ValueError, ["(2, 3)", "(2, 2, 3)"]),
        (ROUTES[:1], ValueError, ["number of clusters", "1", "2"]),
    ]),
    # sinkhorn
    (("sinkhorn_sort", ([[1.0]],), dict(iterations=1)), TypeError, ["logits", "list"]),
    (("sinkhorn_sort", (zeros(3),), dict(iterations=1)), ValueError, ["logits", "2 axes", "(3,)"]),
    (("sinkhorn_sort", (zeros(2, 3),), dict(iterations=1)), ValueError, ["logits", "rows", "(2, 3)"]),
    (("sinkhorn_sort", (SORT,), dict(iterations=0)), ValueError, ["iterations", "at least 1", "0"]),
    (("sinkhorn_sort", (SORT,), dict(iterations=1.0)), TypeError, ["iterations", "integer", "1.0"]),
    *((("sinkhorn_sort", (SORT,), dict(iterations=1) | wrong), error, words) for wrong, error, words in [
        (dict(noise=zeros(3, 3, 3)), ValueError, ["noise", "broadcastable to ()", "(3, 3, 3)"]),
        (dict(temperature=0), ValueError, ["temperature", "positive", "0"]),
        (dict(temperature=-1.0), ValueError, ["temperature", "positive", "-1.0"]),
        (dict(temperature=np.inf), ValueError, ["temperature", "finite", "inf"]),
        (dict(temperature="1"), TypeError, ["temperature", "number", "str '1'"]),
        (dict(temperature=True), TypeError, ["temperature", "number", "bool True"]),
        (dict(noise=zeros(2, 2)), ValueError, ["noise", "3, 3", "(2, 2)"]),
        (dict(noise=zeros(2, 3, 3)), ValueError, ["noise", "(2, 3, 3)"]),
        (dict(noise=SORT.tolist()), TypeError, ["noise", "floats", "list"]),
    ]),
    *((on(function, **wrong), error, words) for function in ("sinkhorn", "sinkhorn_cut")
      for wrong, error, words in [
        (dict(q=Q), ValueError, ["9", "11"]),
        (dict(block=0), ValueError, ["block", "at least 1", "0"]),
        (dict(block=2.5), TypeError, ["block", "integer", "2.5"]),
        (dict(block=3), ValueError, ["sort", "4, 4", "(3, 3)"]),
        (dict(sort=zeros(3)), ValueError, ["sort", "(3,)"]),
        (dict(sort=zeros(2, 3, 3)), ValueError, ["sort", "(2, 3)", "(2, 3, 3)"]),
        (dict(sort=SORT.astype(int)), TypeError, ["sort", "floats", "int64"]),
        (dict(sort=SORT.tolist()), TypeError, ["sort", "floats", "list"]),
    ]),
    (on("sinkhorn_cut", keep=0), ValueError, ["keep", "at least 1", "0"]),
    (on("sinkhorn_cut", keep=1.0), TypeError, ["keep", "integer", "1.0"]),
    # transformer_xl
    *((on("transformer_xl", q=zeros(2, 3, 12, 4), same_length=same), ValueError,
       ["at least as many keys", "n = 12", "m = 11"]) for same in (False, True)),
    (on("transformer_xl", relative_keys=zeros(10, 4)), ValueError, ["relative_keys", "11, 4", "(10, 4)"]),
    (on("transformer_xl", relative_keys=zeros(11, 5)), ValueError, ["relative_keys", "11, 4", "(11, 5)"]),
    (on("transformer_xl", relative_keys=zeros(2, 11, 4)), ValueError,
     ["relative_keys", "(2, 3)", "(2, 11, 4)"]),
    (on("transformer_xl", relative_keys=zeros(11, 4).tolist()), TypeError,
     ["relative_keys", "floats", "list"]),
    (on("transformer_xl", relative_keys=None), TypeError, ["relative_keys", "floats", "None"]),
    (on("transformer_xl", content_bias=zeros(5)), ValueError, ["content_bias", "4", "(5,)"]),
    (on("transformer_xl", content_bias=zeros(2, 4)), ValueError, ["content_bias", "(2, 3)", "(2, 4)"]),
    (on("transformer_xl", position_bias=zeros(3, 11, 4)), ValueError, ["position_bias", "(3, 11, 4)"]),
    (on("transformer_xl", position_bias=[0.0] * 4), TypeError, ["position_bias", "floats", "list"]),
    # compressive_transformer
    (on("compressive_transformer", q=zeros(2, 3, 12, 4)), ValueError,
     ["at least as many keys", "n = 12", "m = 11"]),
    (on("compressive_transformer", relative_keys=zeros(11, 4)), ValueError,
     ["relative_keys", "15, 4", "(11, 4)"]),
    (on("compressive_transformer", memory=None), TypeError, ["memory", "pair", "None"]),
    (on("compressive_transformer", memory=zeros(2, 4)), TypeError, ["memory", "pair", "ndarray of float64"]),
    (on("compressive_transformer", compressed=()), TypeError, ["compressed", "pair", "length 0"]),
    (on("compressive_transformer", compressed=(*OLDER, *OLDER)), TypeError,
     ["compressed", "pair", "length 4"]),
    (on("compressive_transformer", memory=(zeros(2, 5), zeros(2, 5))), ValueError,
     ["memory[0]", "4", "(2, 5)"]),
    (on("compressive_transformer", memory=(zeros(2, 4), zeros(3, 5))), ValueError,
     ["memory[1]", "2, 5", "(3, 5)"]),
    (on("compressive_transformer", compressed=(zeros(2, 4), zeros(2, 4))), ValueError,
     ["compressed[1]", "2, 5", "(2, 4)"]),
    (on("compressive_transformer", compressed=(zeros(2, 2, 4), zeros(2, 5))), ValueError,
     ["compressed[0]", "(2, 3)", "(2, 2, 4)"]),
    (on("compressive_transformer", memory=(zeros(2, 4).tolist(), zeros(2, 5))), TypeError,
     ["memory[0]", "floats", "list"]),
    (on("compressive_transformer", content_bias=zeros(5)), ValueError, ["content_bias", "4", "(5,)"]),
    (on("compressive_transformer", position_bias=zeros(4).astype(int)), TypeError,
     ["position_bias", "floats", "int64"]),
    # the compressions and the memories, in xfref alone
    *(((name, args, {}), error, words) for name, args, error, words in [
        ("compress_mean", (Q, 2), ValueError, ["x needs", "multiple", "rate 2", "9"]),
        ("compress_mean", (Q, 0), ValueError, ["rate", "at least 1", "0"]),
        ("compress_mean", (Q, 3.0), TypeError, ["rate", "integer", "float 3.0"]),
        ("compress_max", (Q, 4), ValueError, ["x needs", "multiple", "rate 4", "9"]),
        ("compress_max", (Q.tolist(), 3), TypeError, ["x needs", "list"]),
        ("compress_max", (zeros(4), 2), ValueError, ["x needs", "2 axes", "(4,)"]),
        ("compress_conv", (Q, zeros(2, 4, 4)), ValueError, ["x needs", "multiple", "rate 2", "9"]),
        ("compress_conv", (Q, zeros(3, 4, 5)), ValueError, ["kernel", "4, 4", "(3, 4, 5)"]),
        ("compress_conv", (Q, zeros(0, 4, 4)), ValueError, ["rate", "at least 1", "0"]),
        ("compress_conv", (Q, zeros(3, 4, 4).tolist()), TypeError, ["kernel", "floats", "list"]),
        ("compress_conv", (Q.tolist(), zeros(3, 4, 4)), TypeError, ["x needs", "list"]),
        ("compress_dilated", (Q[..., :6, :], zeros(2, 2, 4, 4)), ValueError,
         ["x needs", "multiple", "rate 4", "6"]),
        ("compress_dilated", (Q, zeros(2, 3, 4, 4)), ValueError, ["kernels", "2, 4, 4", "(2, 3, 4, 4)"]),
        ("compress_dilated", (Q, zeros(0, 2, 4, 4)), ValueError, ["kernels", "at least 1", "0"]),
        ("compress_conv", (zeros(4), zeros(3, 4, 4)), ValueError, ["x needs", "2 axes", "(4,)"]),
        ("compress_dilated", (Q.tolist(), zeros(2, 2, 4, 4)), TypeError, ["x needs", "list"]),
        ("compress_dilated", (zeros(4), zeros(2, 2, 4, 4)), ValueError, ["x needs", "2 axes"]),
        ("compress_most_used", (Q, zeros(9), 2), ValueError, ["x needs", "multiple", "rate 2", "9"]),
        ("compress_most_used", (Q, zeros(8), 3), ValueError, ["usage", "9", "(8,)"]),
        ("compress_most_used", (Q, zeros(2, 9), 3), ValueError, ["usage", "(2, 3)", "(2, 9)"]),
        ("compress_most_used", (Q, zeros(9).astype(int), 3), TypeError, ["usage", "floats", "int64"]),
        ("reconstruction_loss", (Q.tolist(), K, V, K, V), TypeError, ["q needs", "list"]),
        ("reconstruction_loss", (Q, K.tolist(), V, K, V), TypeError, ["old_k", "list"]),
        ("reconstruction_loss", (Q, K, V, K.astype(np.float32), V), TypeError,
         ["new_k", "float64", "float32"]),
        ("reconstruction_loss", (Q, K, V, K, zeros(5)), ValueError, ["new_v", "2 axes"]),
        ("reconstruction_loss", (Q, K, V, K, V[..., :1]), ValueError, ["old_v and new_v", "width", "5", "1"]),
    ]),
    *((("compressive_update", args,
        dict(memory_length=2, compressed_length=2, compress=lambda p: np.negative) | wrong), error, words)
      for args, wrong, error, words in [
        ((Q, Q, Q.tolist()), {}, TypeError, ["segment", "list"]),
        ((Q, Q, zeros(4)), {}, ValueError, ["segment", "2 axes"]),
        ((Q.tolist(), Q, Q), {}, TypeError, ["memory", "list"]),
        ((Q[..., :3], Q, Q), {}, ValueError, ["memory", "4", "(2, 3, 9, 3)"]),
        ((Q, zeros(2, 9, 4), Q), {}, ValueError, ["compressed", "(2, 3)", "(2, 9, 4)"]),
        ((Q, Q, Q), dict(memory_length=-1), ValueError, ["memory_length", "at least 0", "-1"]),
        ((Q, Q, Q), dict(compressed_length=2.0), TypeError, ["compressed_length", "integer", "2.0"]),
    ]),
    # steps
    *((step(function, **wrong), error, words) for function in STEPS for wrong, error, words in [
        (dict(k=K), ValueError, ["9", "11"]),
        (dict(q=Q[..., :3]), ValueError, ["width", "3", "4"]),
        (dict(v=V[..., :8, :]), ValueError, ["length", "9", "8"]),
        (dict(q=Q.tolist()), TypeError, ["q needs", "list"]),
        (dict(state=3), TypeError, ["state", "tuple", "int 3"]),
        (dict(state=[Q, Q]), TypeError, ["state", "tuple", "list"]),
        (dict(state=()), (TypeError, ValueError), ["state"]),
        (dict(state=(zeros(2, 3, 6, 5),)), (TypeError, ValueError), ["state"]),
        (dict(state=(zeros(2, 3, 1, 1), zeros(2, 3, 1), zeros(2, 3, 1))), (TypeError, ValueError), ["state"]),
        (dict(state=(None, None, None)), (TypeError, ValueError), ["state"]),
    ]),
    (step("linear_transformer_step", state=(zeros(2, 3, 4, 5), zeros(2, 3, 4), zeros(2, 3, 4))),
     (TypeError, ValueError), ["state"]),
    (step("linear_transformer_step", state=(zeros(2, 3, 4, 5), zeros(2, 3, 4).astype(np.float32))), TypeError,
     ["state", "float32"]),
    (step("linear_transformer_step", state=(zeros(3, 4, 5), zeros(3, 4))), ValueError, ["state"]),
    (step("performer_step", projection=zeros(6, 5)), ValueError, ["projection", "4", "(6, 5)"]),
    (step("performer_step", features="elu"), ValueError, ["features", "positive", "'elu'"]),
    (step("performer_step", scale=-1), ValueError, ["scale", "positive", "-1"]),
]

WEIGHTS = xfref.pma_weights(np.random.default_rng(0), 4)
SET, LAYER, BIAS = np.zeros((2, 7, 4)), np.zeros((4, 4)), np.zeros(4)

REFERENCE = [  # of what the specification alone has
    *((("dense_logits", args, kwargs), error, words) for args, kwargs, error, words in [
        ((SET.tolist(), LAYER, BIAS, LAYER, BIAS), {}, TypeError, ["x needs", "list"]),
        ((BIAS, LAYER, BIAS, LAYER, BIAS), {}, ValueError, ["x needs", "2 axes", "(4,)"]),
        ((SET, zeros(5, 4), BIAS, LAYER, BIAS), {}, ValueError, ["w1", "4, any", "(5, 4)"]),
        ((SET, zeros(3, 4, 4), BIAS, LAYER, BIAS), {}, ValueError, ["w1", "(2,)", "(3, 4, 4)"]),
        ((SET, LAYER, zeros(5), LAYER, BIAS), {}, ValueError, ["b1", "4", "(5,)"]),
        ((SET, LAYER, zeros(7, 4), LAYER, BIAS), {}, ValueError, ["b1", "(2,)", "(7, 4)"]),
        ((SET, LAYER, BIAS, LAYER.tolist(), BIAS), {}, TypeError, ["w2", "floats", "list"]),
        ((SET, LAYER, BIAS, zeros(4, 9), BIAS), {}, ValueError, ["b2", "9", "(4,)"]),
        ((SET, LAYER, BIAS, LAYER, BIAS), {}, ValueError, ["w2", "at least m = 7", "4"]),
        ((SET, LAYER, BIAS, LAYER, BIAS), dict(m=-1), ValueError, ["m needs", "at least 0", "-1"]),
        ((SET, LAYER, BIAS, LAYER, BIAS), dict(m=2.0), TypeError, ["m needs", "integer", "float 2.0"]),
    ]),
    *((("factorized_dense_logits", (SET, LAYER, BIAS, *args), kwargs), error, words)
      for args, kwargs, error, words in [
        ((zeros(4, 2), zeros(2), zeros(4, 3), zeros(3)), {}, ValueError, ["wa and wb", "m = 7", "2 and 3"]),
        ((zeros(3, 2), zeros(2), zeros(4, 3), zeros(3)), {}, ValueError, ["wa", "4, any", "(3, 2)"]),
        ((zeros(4, 2), zeros(3), zeros(4, 3), zeros(3)), {}, ValueError, ["ba", "2", "(3,)"]),
        ((zeros(4, 2), zeros(2), zeros(4, 4), zeros(3)), {}, ValueError, ["bb", "4", "(3,)"]),
        ((zeros(4, 2), zeros(2), zeros(4, 4), zeros(4)), dict(m="7"), TypeError, ["m needs", "str '7'"]),
        ((zeros(4, 2), zeros(2), zeros(4, 4), zeros(4)), dict(m=-1), ValueError, ["m needs", "0", "-1"]),
    ]),
    *((("random_logits", args, {}), error, words) for args, error, words in [
        ((LAYER.tolist(), 2), TypeError, ["table needs", "list"]),
        ((BIAS, 2), ValueError, ["table needs", "2 axes", "(4,)"]),
        ((zeros(5, 4), 5), ValueError, ["table", "at least n = 5", "(5, 4)"]),
        ((LAYER, -1), ValueError, ["n needs", "at least 0", "-1"]),
        ((LAYER, 2.0), TypeError, ["n needs", "integer", "float 2.0"]),
    ]),
    *((("factorized_random_logits", args, {}), error, words) for args, error, words in [
        ((LAYER.tolist(), LAYER, 2), TypeError, ["r1 needs", "list"]),
        ((BIAS, LAYER, 2), ValueError, ["r1 needs", "2 axes", "(4,)"]),
        ((LAYER, BIAS, 2), ValueError, ["r2 needs", "2 axes", "(4,)"]),
        ((LAYER, LAYER.astype(np.float32), 2), TypeError, ["r2", "dtype of r1", "float64", "float32"]),
        ((LAYER, zeros(3, 4), 4), ValueError, ["r1 and r2", "at least n = 4", "4 and 3"]),
        ((LAYER, zeros(4, 3), 4), ValueError, ["r1 and r2", "width", "4 and 3"]),
        ((zeros(2, 4, 4), zeros(3, 4, 4), 4), ValueError, ["leading axes", "r1 and r2", "(3, 4, 4)"]),
        ((LAYER, LAYER, True), TypeError, ["n needs", "integer", "bool True"]),
    ]),
    *(((block, args, dict(heads=2) | kwargs), error, words) for block, args, kwargs, error, words in [
        ("mab", (SET.tolist(), SET, WEIGHTS), {}, TypeError, ["x needs", "list"]),
        ("mab", (SET, BIAS, WEIGHTS), {}, ValueError, ["y needs", "2 axes", "(4,)"]),
        ("mab", (SET, SET.astype(np.float32), WEIGHTS), {}, TypeError, ["y needs", "dtype of x", "float32"]),
        ("mab", (SET, zeros(2, 7, 5), WEIGHTS), {}, ValueError, ["x and y", "width", "4 and 5"]),
        ("mab", (SET, zeros(3, 7, 4), WEIGHTS), {}, ValueError, ["leading axes", "x and y", "(3, 7, 4)"]),
        ("mab", (SET, SET, WEIGHTS), dict(heads=3), ValueError, ["heads", "width 4", "3"]),
        ("mab", (SET, SET, WEIGHTS), dict(key_mask=np.ones((2, 1, 7), bool)), ValueError,
         ["key_mask", "2 axes", "(2, 1, 7)"]),
        ("mab", (SET, SET, WEIGHTS | dict(wf=zeros(4, 5))), {}, ValueError, ["wf", "4, 4", "(4, 5)"]),
        ("mab", (SET, SET, WEIGHTS | dict(g2=zeros(5))), {}, ValueError, ["gain", "4", "(5,)"]),
        ("sab", (SET, WEIGHTS), dict(key_mask=np.ones((2, 6), bool)), ValueError, ["key_mask", "(2, 6)"]),
        ("isab", (BIAS, LAYER, WEIGHTS, WEIGHTS), {}, ValueError, ["x needs", "2 axes", "(4,)"]),
        ("isab", (SET, zeros(3, 5), WEIGHTS, WEIGHTS), {}, ValueError, ["inducing", "any, 4", "(3, 5)"]),
        ("isab", (SET, zeros(3, 3, 4), WEIGHTS, WEIGHTS), {}, ValueError, ["inducing", "(2,)", "(3, 3, 4)"]),
        ("isab", (SET, LAYER, WEIGHTS, {}), {}, ValueError, ["weights needs the key 'wq'"]),
        ("pma", ([1.0], LAYER, WEIGHTS), {}, TypeError, ["x needs", "list"]),
        ("pma", (BIAS, LAYER, WEIGHTS), {}, ValueError, ["x needs", "2 axes", "(4,)"]),
        ("pma", (SET, LAYER.astype(int), WEIGHTS), {}, TypeError, ["seeds", "floats", "int64"]),
        ("pma", (SET, LAYER, WEIGHTS | dict(bz=zeros(5))), {}, ValueError, ["bz", "4", "(5,)"]),
        ("multi_head", (BIAS, SET, WEIGHTS), {}, ValueError, ["x needs", "2 axes", "(4,)"]),
        ("multi_head", (SET, BIAS, WEIGHTS), {}, ValueError, ["context needs", "2 axes", "(4,)"]),
        ("multi_head", (SET, SET.astype(np.float32), WEIGHTS), {}, TypeError, ["context", "dtype of x"]),
        ("multi_head", (SET, SET, WEIGHTS | dict(wq=zeros(4, 8), bq=zeros(8))), {}, ValueError,
         ["wk", "4, 8", "(4, 4)"]),
        ("multi_head", (SET, SET, WEIGHTS | dict(wv=zeros(4, 8), bv=zeros(8))), {}, ValueError,
         ["wo", "8, 4", "(4, 4)"]),
        ("multi_head", (SET, SET, WEIGHTS), dict(heads=0), ValueError, ["heads needs", "at least 1", "0"]),
        ("multi_head", (SET, SET, WEIGHTS), dict(heads=2.0), TypeError, ["heads needs", "float 2.0"]),
        ("reversible_block", (BIAS, BIAS, WEIGHTS), {}, ValueError, ["x1 needs", "2 axes", "(4,)"]),
        ("reversible_block", (SET, SET.astype(np.float32), WEIGHTS), {}, TypeError, ["x2", "dtype of x1"]),
        ("reversible_inverse", (SET, BIAS, WEIGHTS), {}, ValueError, ["y1 and y2", "equal shapes", "(4,)"]),
    ]),
    *(((f"{block}_weights", (np.random.default_rng(0), *sizes), {}), ValueError, [name, "at least 1", "0"])
      for block, sizes, name in [("mab", [0], "width"), ("multi_head", [0], "width"),
                                 ("feed_forward", [0, 4], "width"), ("feed_forward", [4, 0], "hidden")]),
    (("sinusoidal_positions", (-1, 4), {}), ValueError, ["n needs", "at least 0", "-1"]),
    (("update_centroids", (ROWS, zeros(4), K), {}), ValueError, ["q needs", "2 axes", "(4,)"]),
    (("update_centroids", (ROWS, Q, zeros(4)), {}), ValueError, ["k needs", "2 axes", "(4,)"]),
    (("pooling_projection", (3, 4), {}), ValueError, ["r needs", "at most n = 3", "4"]),
    (("pooling_projection", (3, 0), {}), ValueError, ["r needs", "at least 1", "0"]),
    (("pooling_projection", (4.0, 2), {}), TypeError, ["n needs", "integer", "float 4.0"]),
    (("encoder_block", (Q, {}), dict(heads=2, norm="no")), ValueError, ["norm", "'post' or 'pre'", "'no'"]),
]

# arguments that Python itself refuses: a misspelt or missing name never passes in silence
REFUSED = [
    *((on(function, casual=True), "casual") for function in FUNCTIONS),
    *((on(function, dropout=0.1), "dropout") for function in FUNCTIONS),
    *((on(function, causal=True), "causal") for function in (
        "sliding_window", "linformer", "star_ring", "bigbird", "adaptive_span", "sinkhorn_cut",
        "transformer_xl", "compressive_transformer")),
    (on_etc(causal=True), "causal"),
    (on("compressive_transformer", same_length=True), "same_length"),
    (on("linear_transformer", scale=1.0), "scale"),
    (("synthesizer", (V, LOGITS), dict(scale=1.0)), "scale"),
    (("synthesizer", (V,), {}), "logits"),
    (("etc", (Q, K, V, Q, K, V), {}), "radius"),
    (on_reformer(casual=True), "casual"),
    (("reformer", (K, V), dict(chunk=3)), "buckets"),
    (("reformer", (K, V), dict(buckets=ROUTES)), "chunk"),
    (("lsh_buckets", (K,), {}), "rotations"),
    *(((function, (Q, K, V), {}), missing) for function, missing in [
        ("block_local", "block"), ("sliding_window", "left"), ("longformer", "window"),
        ("random_tokens", "indices"), ("star_ring", "key_embedded"), ("sparse_strided", "stride"),
        ("sparse_fixed", "stride"), ("bigbird", "random_blocks"), ("image_1d", "memory"),
        ("image_2d", "flange"), ("axial", "axis"), ("adaptive_span", "span"), ("shaw", "key_table"),
        ("routing", "query_clusters"), ("sinkhorn", "sort"), ("sinkhorn_cut", "keep"),
        ("linformer", "key_projection"), ("memory_compressed", "key_kernel"), ("performer", "projection"),
        ("transformer_xl", "relative_keys"), ("compressive_transformer", "memory")]),
]


def run(package, call):
    name, args, kwargs = call
    function = package if hasattr(package, name.split(".")[0]) else xfref
    for part in name.split("."):
        function = getattr(function, part)
    return function(*args, **{key: x(package.patterns) if callable(x) else x for key, x in kwargs.items()})


def label(entry):
    (function, args, kwargs), *_, words = entry
    return f"{function}, {words if isinstance(words, str) else ' '.join(words)}"


@pytest.mark.parametrize("call, error, words", [pytest.param(*entry, id=label(entry)) for entry in TABLE])
def test_bad_input(package, call, error, words):
    refuses(package, call, error, words)


@pytest.mark.parametrize("call, error, words", [pytest.param(*entry, id=label(entry)) for entry in REFERENCE])
def test_bad_input_of_the_specification_alone(call, error, words):
    refuses(xfref, call, error, words)


def refuses(package, call, error, words):
    with pytest.raises(error) as caught:
        run(package, call)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, f"{word!r} is not in: {message}"


@pytest.mark.parametrize("call, word", [pytest.param(*entry, id=label(entry)) for entry in REFUSED])
def test_unknown_and_missing_names(package, call, word):
    with pytest.raises(TypeError, match=word):
        run(package, call)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_good_call_that_the_table_spoils(package, function):
    """Without this the table could be red for another reason than the one it names."""
    run(package, on(function))


@pytest.mark.parametrize("call", [on_reformer(), ("lsh_buckets", (K, np.zeros((4, 2, 3))), {}),
                                  *(on(function, k=PAIR_K, v=PAIR_V) for function in DENSE)],
                         ids=lambda call: call[0])
def test_the_good_calls_of_another_form(package, call):
    run(package, call)


@pytest.mark.parametrize("function", STEPS)
def test_the_good_step_that_the_table_spoils(package, function):
    run(package, step(function))
