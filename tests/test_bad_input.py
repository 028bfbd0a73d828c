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
LSE = np.zeros((2, 3, 9))
OUT = np.zeros((2, 3, 9, 5))
OLDER = np.zeros((2, 4)), np.zeros((2, 5))

OWN = {  # parameters that a function cannot do without
    "block_local": dict(block=3), "sliding_window": dict(left=1, right=1), "longformer": dict(window=2),
    "linformer": dict(key_projection=SLOTS, value_projection=SLOTS), "performer": dict(projection=ROWS),
    "performer_step": dict(projection=ROWS),
    "transformer_xl": dict(relative_keys=np.zeros((11, 4))),
    "compressive_transformer": dict(memory=OLDER, compressed=OLDER, relative_keys=np.zeros((15, 4))),
}
# those that are called with q, k and v under these names
FUNCTIONS = sorted({variant.function for variant in VARIANTS.values() if variant.call is None})
EQUAL = {variant.function for variant in VARIANTS.values() if variant.lengths == "equal"}
DENSE = ["attention", "attention_lse"]
SCALED = [name for name in FUNCTIONS if any(x.scale for x in VARIANTS.values() if x.function == name)]


def on(function, q=None, k=K, v=V, **options):
    """The call of a function of q, k and v with one thing wrong."""
    if q is None:
        q = np.zeros((2, 3, 11, 4)) if function in EQUAL else Q
    return function, (q, k, v), OWN.get(function, {}) | options


def step(function, state=None, q=Q, k=K[..., :9, :], v=V[..., :9, :], **options):
    return function, (state, q, k, v), OWN.get(function, {}) | options


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
    *for_all(FUNCTIONS, TypeError, ["v needs", "list", "asarray"], v=V.tolist()),
    *for_all(FUNCTIONS, TypeError, ["q needs", "str 'x'"], q="x"),
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
        ("summaries", (4, 2, 3), {}, ValueError, ["summary", "stride", "2", "3"]),
        ("summaries", (4, 4, 0), {}, ValueError, ["summary", "at least 1", "0"]),
        ("summaries", (4, 4, 2, 2), {}, ValueError, ["sub_block", "stride", "4", "2"]),
        ("summaries", (4, 4, 2, -1), {}, ValueError, ["sub_block", "at least 0", "-1"]),
        ("blocks", ([[0]], 4, 4), {}, TypeError, ["table", "integers", "list"]),
        ("blocks", (np.zeros((2, 1), int), 4, 4), {}, ValueError, ["table", "(..., 1, r)", "(2, 1)"]),
        ("blocks", (np.ones((1, 1), int), 4, 4), {}, ValueError, ["table", "-1..0", "1"]),
        ("blocks", (np.zeros((1, 1)), 4, 4), {}, TypeError, ["table", "integers", "float64"]),
        ("scattered", (2, np.array([[0], [2]])), {}, ValueError, ["indices", "-1..1", "2"]),
        ("scattered", (2, np.array([[0], [-2]])), {}, ValueError, ["indices", "-1..1", "-2"]),
        ("scattered", (2, np.array([0, 1])), {}, ValueError, ["indices", "(..., 2, r)", "(2,)"]),
        ("scattered", (2, np.zeros((2, 1), bool)), {}, TypeError, ["indices", "integers", "bool"]),
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
    (on("longformer", global_q=zeros(5, 3, 9, 4)), ValueError, ["global_q", "(5, 3"]),
    (on("longformer", global_k=zeros(4, 2, 3, 11, 4)), ValueError, ["global_k", "(4, 2, 3"]),
    # linformer
    (on("linformer", key_projection=zeros(6, 10)), ValueError, ["key_projection", "at least m = 11", "10"]),
    (on("linformer", value_projection=zeros(6, 9)), ValueError, ["value_projection", "at least m = 11", "9"]),
    (on("linformer", value_projection=zeros(5, 11)), ValueError,
     ["key_projection", "value_projection", "6", "5"]),
    (on("linformer", key_projection=zeros(11)), ValueError, ["key_projection", "(11,)"]),
    (on("linformer", key_projection=zeros(2, 6, 11)), ValueError, ["key_projection", "(2, 3)", "(2, 6, 11)"]),
    (on("linformer", key_projection=SLOTS.astype(int)), TypeError, ["key_projection", "floats", "int64"]),
    (on("linformer", value_projection=SLOTS.tolist()), TypeError, ["value_projection", "floats", "list"]),
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
    # transformer_xl
    (on("transformer_xl", q=zeros(2, 3, 12, 4)), ValueError, ["at least as many keys", "n = 12", "m = 11"]),
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

# arguments that Python itself refuses: a misspelt or missing name never passes in silence
REFUSED = [
    *((on(function, casual=True), "casual") for function in FUNCTIONS),
    *((on(function, dropout=0.1), "dropout") for function in FUNCTIONS),
    (on("sliding_window", causal=True), "causal"),
    (on("linformer", causal=True), "causal"),
    (on("transformer_xl", causal=True), "causal"),
    (on("compressive_transformer", same_length=True), "same_length"),
    (on("linear_transformer", scale=1.0), "scale"),
    *(((function, (Q, K, V), {}), missing) for function, missing in [
        ("block_local", "block"), ("sliding_window", "left"), ("longformer", "window"),
        ("linformer", "key_projection"), ("performer", "projection"), ("transformer_xl", "relative_keys"),
        ("compressive_transformer", "memory")]),
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


@pytest.mark.parametrize("function", STEPS)
def test_the_good_step_that_the_table_spoils(package, function):
    run(package, step(function))
