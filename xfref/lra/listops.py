"""Long ListOps: evaluate a nested list of digits, ten classes.

"Long Range Arena: A Benchmark for Efficient Transformers", Tay et al., 2020, arXiv:2011.04006, section 2.2.1
and appendix A.1.1; the trees, their lengths and the file format are those of the authors' released generator.
The task is after "ListOps: A Diagnostic Dataset for Latent Tree Learning", Nangia and Bowman, 2018,
arXiv:1804.06028.

An example is `(ids, label)`: the tokens in reading order, without the round brackets of the file, such as
`[MAX 4 [MIN 2 3 X 1 X` (X closes a list), as uint8 ids, and the value, 0 to 9. The length of an example is
its number of tokens: a digit is 1, a list is 2 and its arguments.

Differs: the paper names an operator MEAN; the released generator has MIN, MAX, MED and SM, and so has this
file.
Differs: ids are fixed (`WORDS`); the released loader numbers the words in the order of a Python set.
Differs: a seed gives the same examples again (with the same NumPy); the released generator has none.
Differs: the operator is drawn before its arguments, which changes no probability and lets a tree
be dropped as soon as it is too long.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b

import numpy as np

from .files import generator, reading

WORDS = ("<pad>", *"0123456789", "[MIN", "[MAX", "[MED", "[SM", "X", "<oov>")  # the id of a word is its index
PAD, ZERO, CLOSE, OOV = 0, 1, 15, 16
IDS = {word: id for id, word in enumerate(WORDS) if id not in (PAD, OOV)}


def _median(values):
    values = sorted(values)
    # the two middle values of an even count, twice the same one of an odd count
    return (values[(len(values) - 1) // 2] + values[len(values) // 2]) // 2


OPERATORS: dict[int, Callable[[list[int]], int]] = {
    IDS["[MIN"]: min,
    IDS["[MAX"]: max,
    IDS["[MED"]: _median,
    IDS["[SM"]: lambda values: sum(values) % 10,
}

# Keyword arguments of `generate`; max_length is also the length to pad to. "long" is the benchmark's.
SIZES = {
    "long": {"max_depth": 10, "max_args": 10, "min_length": 500, "max_length": 2000},
    "s": {"max_depth": 10, "max_args": 10, "min_length": 32, "max_length": 128},
    "mini": {"max_depth": 5, "max_args": 5, "min_length": 16, "max_length": 64},
}


def generate(
    rng: np.random.Generator | int,
    *,
    max_depth: int = 10,
    max_args: int = 10,
    min_length: int = 500,
    max_length: int = 2000,
) -> Iterator[tuple[np.ndarray, int]]:
    """Yield distinct examples without end: uint8 ids (length,), read-only, and the label.

    A node above `max_depth` (the root is at depth 1) is a list with probability 1/4, else a digit; a list has
    2 to `max_args` arguments. A tree is kept if `min_length < length < max_length`. `rng` is a generator or a
    seed; the same seed gives the same examples. Parts cut from one stream share no tree, as each is yielded
    once.

    Raises TypeError without a seed, ValueError for sizes that make no tree, and ValueError once a million
    trees in a row gave no new example. Cost: about 1 ms per example of the default size (a tree in twelve is
    kept), 16 bytes of memory and a set entry per example seen.

    >>> from itertools import islice
    >>> stream = generate(0, **SIZES["mini"])
    >>> train, test = list(islice(stream, 100)), list(islice(stream, 20))
    >>> all(16 < len(ids) < 64 and evaluate(ids) == label for ids, label in train + test)
    True
    """
    rng = generator(rng)
    if max_depth < 2 or max_args < 2:
        raise ValueError(f"max_depth and max_args must be at least 2, got {max_depth} and {max_args}")
    if max_length - min_length < 2:
        raise ValueError(f"no length lies strictly between {min_length} and {max_length}")
    return _distinct(rng, max_depth, max_args, min_length, max_length)


def _distinct(rng, max_depth, max_args, min_length, max_length):
    draws, seen, failures = _draws(rng, max_args), set(), 0
    while True:
        tree = _draw_tree(draws, max_depth, max_args, max_length)
        if tree is not None and len(tree) > min_length:
            # 16 bytes stand for a tree; two trees of one digest, if ever met, would only cost an example
            digest = blake2b(tree, digest_size=16).digest()
            if digest not in seen:
                seen.add(digest)
                failures = 0
                ids = np.frombuffer(tree, np.uint8)
                yield ids, evaluate(ids)
                continue
        failures += 1
        if failures == 1_000_000:
            raise ValueError(
                f"no new tree in a million draws after {len(seen)} examples: max_depth {max_depth}, max_args "
                f"{max_args}, length above {min_length} and below {max_length}"
            )


def _draws(rng, max_args):
    # One integer per node, uniform over 4 * (4 operators * 10 digits * arities), from which each choice is a
    # remainder. In blocks, as a single draw from NumPy costs more than all else done for a node.
    while True:
        yield from rng.integers(160 * (max_args - 1), size=4096).tolist()


def _draw_tree(draws, max_depth, max_args, max_length):
    """One tree as bytes of ids, or None as soon as it has `max_length` tokens."""
    tokens = bytearray()
    due = [1]  # arguments still to come, for each list that is open; the first entry is the root itself
    while len(tokens) < max_length:
        if not due[-1]:
            due.pop()
            tokens.append(CLOSE)
        else:
            due[-1] -= 1
            choice, is_digit = divmod(next(draws), 4)
            if is_digit or len(due) == max_depth:
                tokens.append(ZERO + choice % 10)
            else:
                tokens.append(IDS["[MIN"] + choice % 4)
                due.append(2 + choice // 4 % (max_args - 1))
        if due == [0]:
            return bytes(tokens) if len(tokens) < max_length else None
    return None


def evaluate(ids: np.ndarray) -> int:
    """Value of a tree, 0 to 9, from its ids (length,), padded at the end or not.

    MED of an even count is the mean of the two middle values, truncated; SM is the sum modulo 10. Raises
    ValueError for ids that are no tree. Cost: one pass with an explicit stack, so depth is limited by memory
    alone.

    >>> evaluate(encode("[MAX 4 3 [MIN 2 3 ] 1 0 [MED 1 5 8 9 2 ] ]"))  # the paper's example
    5
    """
    operators, values = [], [[]]
    for position, id in enumerate(np.trim_zeros(np.asarray(ids), "b").tolist()):
        if ZERO <= id < ZERO + 10:
            values[-1].append(id - ZERO)
        elif id in OPERATORS:
            operators.append(id)
            values.append([])
        elif id == CLOSE:
            if not operators or not values[-1]:
                raise ValueError(f"token {position} closes {'an empty list' if operators else 'no list'}")
            arguments = values.pop()
            values[-1].append(OPERATORS[operators.pop()](arguments))
        else:
            raise ValueError(f"token {position} has id {id}, which is no digit, operator or close")
    if operators:
        raise ValueError(f"{len(operators)} lists are never closed")
    if len(values[0]) != 1:
        raise ValueError(f"one expression is due, found {len(values[0])}")
    return values[0][0]


def tokenise(source: str) -> list[str]:
    """Words of a source: round brackets deleted, "]" renamed to X, split at white space.

    >>> tokenise("( ( ( [MAX 4 ) 3 ) ] )")
    ['[MAX', '4', '3', 'X']
    """
    return source.replace("(", " ").replace(")", " ").replace("]", " X ").split()


def encode(source: str) -> np.ndarray:
    """Ids (length,) of a source, uint8, by `WORDS`; an unknown word is 16. Round brackets are optional.

    >>> encode("[SM 0 9 [LAST 1 ] ]")
    array([14,  1, 10, 16,  2, 15, 15], dtype=uint8)
    """
    return np.array([IDS.get(word, OOV) for word in tokenise(source)], np.uint8)


def to_source(ids: np.ndarray) -> str:
    """The tree in the benchmark's binary form, where a list takes its arguments one at a time.

    Raises ValueError as `evaluate` does.

    >>> to_source(encode("[MAX 4 [MIN 2 3 ] ]"))
    '( ( ( [MAX 4 ) ( ( ( [MIN 2 ) 3 ) ] ) ) ] )'
    """
    evaluate(ids)
    return " ".join(_binary_words(ids))


def _binary_words(ids):
    words, counts = [], []
    # from the end, so that the arguments of a list are counted when its operator comes: one bracket each
    # opens there
    for id in np.trim_zeros(np.asarray(ids), "b").tolist()[::-1]:
        if id in OPERATORS:
            words += [WORDS[id]] + ["("] * (counts.pop() + 1)
            continue
        if counts:
            counts[-1] += 1
            words.append(")")
        if id == CLOSE:
            counts.append(0)
            words += [")", "]"]
        else:
            words.append(WORDS[id])
    return words[::-1]


def pad(examples: Iterable[tuple[np.ndarray, int]], length: int) -> tuple[np.ndarray, np.ndarray]:
    """Stack examples into ids (count, length) and labels (count,), int32, cut or padded with 0 at the end.

    >>> ids, labels = pad([(encode("[MIN 2 3 ]"), 2), (encode("7"), 7)], length=5)
    >>> ids.tolist(), labels.tolist()
    ([[11, 3, 4, 15, 0], [8, 0, 0, 0, 0]], [2, 7])
    """
    examples = list(examples)
    ids = np.zeros((len(examples), length), np.int32)
    for row, (tokens, _) in zip(ids, examples, strict=True):
        row[: len(tokens)] = tokens[:length]
    return ids, np.array([label for _, label in examples], np.int32)


def write_tsv(path: str | os.PathLike, examples: Iterable[tuple[np.ndarray, int]]) -> int:
    """Write examples as the benchmark's own file, such as basic_train.tsv, and return how many.

    Columns Source (binary form) and Target, tab between, lines end in CR LF as the released generator's do.
    """
    count = 0
    with open(path, "w", encoding="ascii", newline="") as file:
        file.write("Source\tTarget\r\n")
        for ids, label in examples:
            file.write(f"{to_source(ids)}\t{int(label)}\r\n")
            count += 1
    return count


def read_tsv(
    path: str | os.PathLike, *, max_bytes: int = 2**30, max_line: int = 2**20
) -> Iterator[tuple[np.ndarray, int]]:
    """Yield the examples of a file in the benchmark's own format, as `generate` does; duplicates are kept.

    Nothing in the file is trusted. Raises ValueError that names the file, the line and what is wrong: a file
    over `max_bytes` or a line over `max_line` bytes, the header, the columns, bytes that are not ASCII, an
    unknown word, a source that is no tree or not in binary form, a target that is not the tree's value, no
    example at all. Cost: one line in memory at a time, about 1 ms per example of the benchmark's size.
    """
    name = repr(os.fspath(path))
    with reading(path, max_bytes) as file:
        number = 0
        while line := file.readline(max_line + 1):
            number += 1
            try:
                if len(line) > max_line:
                    raise ValueError(f"holds more than max_line = {max_line} bytes")
                fields = line.decode("ascii").rstrip("\r\n").split("\t")
                if number == 1:
                    if fields != ["Source", "Target"]:
                        raise ValueError("the header is not Source, tab, Target")
                    continue
                example = _example(fields)
            except ValueError as error:  # UnicodeDecodeError is one
                raise ValueError(f"{name}, line {number}: {error}") from error
            yield example
        if number < 2:
            raise ValueError(f"{name}: holds no example")


def _example(fields):
    if len(fields) != 2:
        raise ValueError(f"2 columns are due, found {len(fields)}")
    source, target = fields
    unknown = [word for word in tokenise(source) if word not in IDS]
    if unknown:
        raise ValueError(f"unknown word {unknown[0][:20]!r}")
    ids = encode(source)
    value = evaluate(ids)
    if _binary_words(ids) != source.split():
        raise ValueError("the round brackets are not those of the binary form")
    if target != str(value):
        raise ValueError(f"Target is {target[:20]!r}, the tree is worth {value}")
    return ids, value
