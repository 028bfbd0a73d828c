"""The encoder of Long Range Arena: tokens in, logits of the classes out, around any attention. Forward only.

"Long Range Arena: A Benchmark for Efficient Transformers", Tay et al., 2020, arXiv:2011.04006, section 2.2.3
(two documents), section 3.2 and appendix A (sizes).

An embedding and a position for every token, blocks with the normalisation first, a last normalisation, one
row for the whole sequence, and a small perceptron that reads it. The same encoder reads both documents of a
pair; they meet in the perceptron alone. The attention is an argument, so any variant of this book, or its
fast twin, fits in. Weights are one dict of arrays; `encoder_weights` draws them, and in which type they are,
in that type everything is computed.

`PROFILES` holds the sizes: those of the paper's appendix, those that the authors' released code runs with
(where it has others for each variant, those of its plain Transformer), and the small encoder that the authors
of the Nystromformer (Xiong et al., 2021, arXiv:2102.03902) train on every task.

Differs: layer_norm adds 1e-5 to the variance, the released code 1e-6.
Differs: the row of the CLS token is never hidden; in the released code it is if the first token is, such as a
black first pixel. The black pixels themselves are hidden there as padding, and here only with padding=0.
Differs: "masked_mean" divides by the number of tokens that are no padding; the Nystromformer's code divides
their sum by the whole length. Its GELU is the exact one, here it is the tanh form of the benchmark's code.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from xfref.core import attention, check_array, integers, joined, layer_norm, parameter
from xfref.transformer import encoder_block, linear, sinusoidal_positions, weight

Array = np.ndarray
TASKS = {  # ids, the length that the benchmark cuts or pads to (the longest that it tried), classes
    "listops": (17, 2000, 10),
    "text": (257, 4000, 2),
    "retrieval": (257, 4000, 2),
    "image": (256, 1024, 10),
    "pathfinder": (256, 1024, 2),
    "pathx": (256, 16384, 2),
}
POOLS = ("cls", "first", "mean", "masked_mean")
OTHERS = ("tokens", "positions", "cls", "g", "n", "h1", "c1", "h2", "c2", "h3", "c3")  # weights of no block


class Profile(NamedTuple):
    """The sizes of an encoder: keywords of `encoder_weights`, and of `classify` or `match`."""

    weights: dict
    call: dict


def classify(ids: Array, weights: Mapping[str, Array], *, heads: int, pool: str = "cls",
             padding: int | None = 0, attend: Callable[..., Array] | Sequence = attention) -> Array:
    """The logits of a sequence: `encode`, then a perceptron with max(0, .) between its layers.

    (...,n) -> (...,classes). `weights` holds those of `encode` and, for each layer of the perceptron, h1 and
    its bias c1, h2 and c2, and h3 and c3 if there is a third.

    Raises: TypeError or ValueError naming the argument or weight that does not fit.
    Cost: that of `encode`.

    >>> weights = encoder_weights(np.random.default_rng(0), **PROFILES["nystrom"]["listops"].weights)
    >>> classify(np.array([[11, 3, 4, 15, 0]]), weights, **PROFILES["nystrom"]["listops"].call).shape
    (1, 10)
    """
    return _perceptron(encode(ids, weights, heads=heads, pool=pool, padding=padding, attend=attend), weights)


def match(ids1: Array, ids2: Array, weights: Mapping[str, Array], *, heads: int, pool: str = "cls",
          interaction: bool = True, padding: int | None = 0,
          attend: Callable[..., Array] | Sequence = attention) -> Array:
    """The logits of a pair of sequences, each encoded on its own by the same weights.

    MLP([x1, x2, x1 * x2, x1 - x2]) with `interaction`, as in the paper (A.1.3); without it, as the released
    code runs, MLP([x1, x2]).

    (...,n),(...,n') -> (...,classes). `weights` as for `classify`.

    Raises: TypeError or ValueError naming the argument or weight that does not fit.
    Cost: that of `encode`, twice.
    """
    x1, x2 = (encode(ids, weights, heads=heads, pool=pool, padding=padding, attend=attend)
              for ids in (ids1, ids2))
    parts = [x1, x2, x1 * x2, x1 - x2] if interaction else [x1, x2]
    return _perceptron(np.concatenate(parts, axis=-1), weights)


def encode(ids: Array, weights: Mapping[str, Array], *, heads: int, pool: str = "cls",
           padding: int | None = 0, attend: Callable[..., Array] | Sequence = attention) -> Array:
    """One row for each sequence of ids: embedded, through all blocks, normalised and pooled.

    x = tokens[ids] + positions;   blocks x <- x + MultiHead(LN(x)), x <- x + FFN(LN(x));   pool(LN(x))

    (...,n) -> (...,w). `weights` holds tokens (ids, w), positions (at least the length, w), the gain g and
    bias n (w) of the last normalisation and, stacked along a leading axis, those of one `encoder_block` per
    layer; with pool "cls" also cls (w), a token of its own in front of the others, which has the first
    position. `pool` is "cls", its row; "first", the row of the first token; "mean" of all rows, padding too;
    "masked_mean" of those that are no padding.

    Tokens with the id `padding` are keys that nothing attends to; None is none. `attend`, one function or
    one for each layer, is called as by `multi_head`, and with a `key_mask` (..., 1, n) if there is padding.

    Raises: TypeError or ValueError naming the argument or weight that does not fit.
    Cost: that of `encoder_block` for each layer.
    """
    if pool not in POOLS:
        raise ValueError(f"pool needs to be one of {', '.join(POOLS)}, got {pool!r}")
    tokens = weight(weights, "tokens")
    check_array("tokens", tokens, least=2)
    ids = integers("ids", ids, (None,), np.shape(ids)[:-1])
    if ids.size and ids.max() >= len(tokens):
        raise ValueError(f"ids need to be under {len(tokens)}, the number of tokens, got {ids.max()}")
    x, seen = tokens[ids], np.ones(ids.shape, bool) if padding is None else ids != padding
    if pool == "cls":
        first = parameter("cls", weight(weights, "cls"), x.dtype, own=x.shape[-1:], lead=())
        x = joined(first[None], x)
        seen = np.insert(seen, 0, True, axis=-1)
    positions = parameter("positions", weight(weights, "positions"), x.dtype, own=(None, x.shape[-1]),
                          lead=())
    if x.shape[-2] > len(positions):
        raise ValueError(f"positions needs a row for each of {x.shape[-2]} tokens, got {len(positions)}")
    x = x + positions[:x.shape[-2]]
    blocks = _blocks(weights)
    each = [attend] * len(blocks) if callable(attend) else attend
    if len(each) != len(blocks):
        raise ValueError(f"attend needs one function, or one for each of {len(blocks)} layers, "
                         f"got {len(each)}")
    for own, function in zip(blocks, each, strict=True):
        x = encoder_block(x, own, heads=heads, attend=_hiding(function, seen), norm="pre", activation=gelu)
    x = layer_norm(x, weight(weights, "g"), weight(weights, "n"))
    if pool == "masked_mean":
        counted = seen[..., None].astype(x.dtype)
        return (x * counted).sum(axis=-2) / np.maximum(counted.sum(axis=-2), 1)
    return x.mean(axis=-2) if pool == "mean" else x[..., 0, :]


def gelu(x: Array) -> Array:
    """x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), the form of the released code."""
    inner = x.dtype.type(np.sqrt(2 / np.pi)) * (x + x.dtype.type(0.044715) * x * x * x)
    return x * (np.tanh(inner) + 1) / 2


def encoder_weights(rng: np.random.Generator, *, layers: int, width: int, qkv: int, hidden: int,
                    vocabulary: int, length: int, classes: int, head: Sequence[int], inputs: int = 1,
                    cls: bool = False, learned: bool = False) -> dict[str, Array]:
    """Random weights for `classify` or `match`, drawn as the released code draws them; float64.

    `qkv` is the width of all heads together, `head` the widths between the layers of the perceptron, which
    reads `inputs` rows of the encoder: 2 or 4 of `match`. Tokens are standard normal, matrices uniform of
    variance 2 / (inputs + outputs) (Glorot), `learned` positions normal of deviation 0.02 and else
    sinusoids, biases and the CLS token zero.
    """
    def matrix(*shape: int) -> Array:
        bound = np.sqrt(6 / sum(shape[-2:]))
        return rng.uniform(-bound, bound, shape)

    rows = length + cls
    made = dict(tokens=rng.standard_normal((vocabulary, width)), g=np.ones(width), n=np.zeros(width))
    made["positions"] = rng.normal(0, 0.02, (rows, width)) if learned else sinusoidal_positions(rows, width)
    if cls:
        made["cls"] = np.zeros(width)
    made |= {f"w{name}": matrix(layers, width, qkv) for name in "qkv"}
    made |= {"wo": matrix(layers, qkv, width), "w1": matrix(layers, width, hidden),
             "w2": matrix(layers, hidden, width)}
    widths = dict(bq=qkv, bk=qkv, bv=qkv, bo=width, b1=hidden, b2=width, n1=width, n2=width)
    made |= {name: np.zeros((layers, size)) for name, size in widths.items()}
    made |= {name: np.ones((layers, width)) for name in ("g1", "g2")}
    sizes = [inputs * width, *head, classes]
    for place, shape in enumerate(zip(sizes, sizes[1:], strict=False), 1):
        made |= {f"h{place}": matrix(*shape), f"c{place}": np.zeros(shape[1])}
    return made


def _blocks(weights):
    """The weights of each block, from the arrays that stack them along a leading axis."""
    stacked = {name: x for name, x in weights.items() if name not in OTHERS}
    number = len(weight(weights, "wq"))
    for name, x in stacked.items():
        if len(x) != number:
            raise ValueError(f"{name} needs a leading axis of {number} layers, like wq, got {np.shape(x)}")
    return [{name: x[layer] for name, x in stacked.items()} for layer in range(number)]


def _hiding(attend, seen):
    """`attend` with the key mask of a batch, (..., 1, n) for all heads, if anything is to be hidden."""
    if seen.all():
        return attend
    return lambda q, k, v: attend(q, k, v, key_mask=seen[..., None, :])


def _perceptron(x, weights):
    for place in (1, 2, 3) if "h3" in weights else (1, 2):
        x = linear(np.maximum(x, 0) if place > 1 else x, weights, f"h{place}", f"c{place}")
    return x


def _profile(task, blocks, width, heads, qkv, hidden, pool, positions, vocabulary=None):
    """`head` has one width, but that of the released code for pairs two; it compares them less, too."""
    ids, length, classes = TASKS[task]
    sizes = dict(layers=blocks, width=width, qkv=qkv, hidden=hidden, vocabulary=vocabulary or ids,
                 length=length, classes=classes, head=(hidden,), cls=pool == "cls",
                 learned=positions == "learned")
    call = dict(heads=heads, pool=pool, padding=0 if task in ("listops", "text", "retrieval") else None)
    if task == "retrieval":
        # the released code encodes a document without a CLS token, and pools the place where it would stand
        released = pool == "first"
        sizes |= dict(inputs=2, head=(hidden, hidden // 2)) if released else dict(inputs=4)
        call |= dict(interaction=not released)
    return Profile(sizes, call)


# blocks, width, heads, width of all heads together, hidden, pool, positions
PROFILES: dict[str, dict[str, Profile]] = {
    # appendix A, as far as it goes: what it leaves out is as released, a width as that of the heads, and
    # Path-X, for which it gives nothing, as Pathfinder
    "paper": {
        "listops": _profile("listops", 6, 512, 8, 512, 2048, "cls", "sinusoids"),
        "text": _profile("text", 6, 512, 8, 512, 2048, "cls", "sinusoids"),
        "retrieval": _profile("retrieval", 4, 128, 4, 128, 512, "cls", "sinusoids"),
        "image": _profile("image", 3, 64, 4, 64, 128, "cls", "learned"),
        "pathfinder": _profile("pathfinder", 4, 128, 8, 128, 128, "mean", "sinusoids"),
        "pathx": _profile("pathx", 4, 128, 8, 128, 128, "mean", "sinusoids"),
    },
    "official": {  # github.com/google-research/long-range-arena
        "listops": _profile("listops", 4, 512, 8, 512, 1024, "cls", "sinusoids"),
        "text": _profile("text", 4, 256, 4, 256, 1024, "cls", "sinusoids"),
        "retrieval": _profile("retrieval", 4, 128, 4, 128, 512, "first", "sinusoids"),
        "image": _profile("image", 1, 128, 8, 64, 128, "cls", "learned"),
        "pathfinder": _profile("pathfinder", 4, 32, 4, 16, 32, "mean", "sinusoids"),
        "pathx": _profile("pathx", 1, 32, 2, 16, 32, "mean", "learned"),
    },
    # github.com/mlpen/Nystromformer, with more ids than are used; Path-X, which it leaves out, as Pathfinder
    "nystrom": {
        task: _profile(task, 2, 64, 2, 64, 128, "masked_mean", "learned", 32 if task == "listops" else 512)
        for task in TASKS
    },
}
