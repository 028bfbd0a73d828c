"""Long ListOps against hand-worked lists, a naive generator and evaluator, and the exact law of lengths."""

import inspect
import os
import random
import subprocess
import sys
from collections import Counter
from itertools import islice

import numpy as np
import pytest

from xfref.lra import baselines, listops

HEADER = b"Source\tTarget\r\n"
GOOD = b"( ( ( [MAX 4 ) 3 ) ] )\t4\r\n"


@pytest.fixture(scope="module")
def long():
    """6 000 examples of the benchmark's size as padded ids, labels and lengths."""
    examples = list(islice(listops.generate(20201108), 6000))
    ids, labels = listops.pad(examples, 2000)
    return ids, labels, np.array([len(tokens) for tokens, _ in examples])


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("[MAX 4 3 [MIN 2 3 ] 1 0 [MED 1 5 8 9 2 ] ]", 5),  # Long Range Arena, section 2.2.1
        ("[MAX 2 9 [MIN 4 7 ] 0 ]", 9),  # ListOps, Nangia and Bowman, figure 1
        ("[MED 1 2 ]", 1),  # the mean 1.5, truncated
        ("[MED 9 1 4 2 ]", 3),  # 2 and 4
        ("[MED 8 0 ]", 4),
        ("[MED 7 7 0 ]", 7),
        ("[SM 9 9 9 ]", 7),  # 27
        ("[SM 5 5 ]", 0),
        ("[MIN [SM 9 8 ] [MAX 1 2 ] 6 ]", 2),
        ("[MIN 3 ]", 3),
        ("6", 6),
    ],
)
def test_hand_worked_values(source, value):
    assert listops.evaluate(listops.encode(source)) == value
    assert listops.evaluate(np.append(listops.encode(source), [0, 0])) == value


def by_the_binary_form(source):
    """The value by reducing the nested pairs of the file's form, with NumPy's median."""
    words = source.split()

    def pair(at):
        if words[at] != "(":
            return words[at], at + 1
        left, at = pair(at + 1)
        right, at = pair(at)
        assert words[at] == ")"
        return (left, right), at + 1

    def value(node):
        if isinstance(node, str):
            return int(node) if node.isdigit() else node
        left, right = value(node[0]), value(node[1])
        if isinstance(left, str):
            return left, [right]
        operator, arguments = left
        if right != "]":
            return operator, [*arguments, right]
        apply = {"[MIN": min, "[MAX": max, "[MED": lambda x: int(np.median(x)), "[SM": lambda x: sum(x) % 10}
        return apply[operator](arguments)

    tree, end = pair(0)
    assert end == len(words)
    return value(tree)


@pytest.mark.parametrize(("size", "count"), [("long", 60), ("s", 200), ("mini", 1000)])
def test_labels_agree_with_an_independent_evaluator_of_the_file_form(size, count):
    for ids, label in islice(listops.generate(3, **listops.SIZES[size]), count):
        assert by_the_binary_form(listops.to_source(ids)) == label


def test_binary_form_and_vocabulary_by_hand():
    source = "( ( ( [MED ( ( ( [SM 0 ) 9 ) ] ) ) 5 ) ] )"
    ids = listops.encode(source)
    assert ids.tolist() == [13, 14, 1, 10, 15, 6, 15]
    assert listops.to_source(ids) == source
    assert listops.encode("[MIN 2 [FIRST 3 ] ]").tolist() == [11, 3, 16, 4, 15, 15]
    assert [listops.encode(word)[0] for word in "0123456789"] == list(range(1, 11))


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([], "one expression is due, found 0"),
        ([3, 4], "one expression is due, found 2"),
        ([11, 3], "1 lists are never closed"),
        ([11, 15], "token 1 closes an empty list"),
        ([3, 15], "token 1 closes no list"),
        ([11, 3, 0, 4, 15], "token 2 has id 0"),
        ([11, 16, 15], "token 1 has id 16"),
        ([11, 3, 15, 200], "token 3 has id 200"),
    ],
)
def test_ids_that_are_no_tree(ids, message):
    for function in (listops.evaluate, listops.to_source):
        with pytest.raises(ValueError, match=message):
            function(np.array(ids, np.uint8))


def test_depth_is_not_limited_by_recursion(tmp_path):
    depth = 20_000
    source = "[MIN 1 " * depth + "2 " + "] " * depth
    ids = listops.encode(source)
    assert listops.evaluate(ids) == 1
    assert listops.write_tsv(tmp_path / "deep.tsv", [(ids, 1)]) == 1
    ((again, _),) = listops.read_tsv(tmp_path / "deep.tsv")
    assert np.array_equal(ids, again)


def length_law(max_depth, max_args, limit):
    """Probability of each length below `limit`, from that one level down: length = 2 + arguments."""
    law = np.zeros(limit)
    law[1] = 1
    for _ in range(max_depth - 1):
        power, lists = np.eye(1, limit, 2)[0], np.zeros(limit)
        transform = np.fft.rfft(law, 2 * limit)
        for arguments in range(1, max_args + 1):
            power = np.fft.irfft(np.fft.rfft(power, 2 * limit) * transform, 2 * limit)[:limit]
            lists += power * (arguments > 1)
        law = 0.25 * lists / (max_args - 1)
        law[1] += 0.75
    return law


@pytest.mark.parametrize(
    ("size", "trees", "rate"), [("long", 30_000, 0.083), ("s", 100_000, 0.016), ("mini", 50_000, 0.091)]
)
def test_acceptance_rate(size, trees, rate):
    """Within 4 standard errors of the exact rate: +- 0.0064 for 30 000 trees of the benchmark's size."""
    depth, arguments, least, limit = listops.SIZES[size].values()
    exact = length_law(depth, arguments, limit)[least + 1 :].sum()
    assert exact == pytest.approx(rate, abs=0.0005)
    draws = listops._draws(np.random.default_rng(4), arguments)
    drawn = (listops._draw_tree(draws, depth, arguments, limit) for _ in range(trees))
    accepted = sum(tree is not None and len(tree) > least for tree in drawn)
    assert abs(accepted / trees - exact) < 4 * np.sqrt(exact * (1 - exact) / trees)


def test_mean_length_and_depth(long):
    """Exact mean 1035.0, deviation 393.8; 6 000 examples, 4 standard errors, +- 20.3."""
    ids, _, lengths = long
    law, at = length_law(10, 10, 2000)[501:], np.arange(501, 2000)
    mean = (law * at).sum() / law.sum()
    assert mean == pytest.approx(1035.0, abs=0.1)
    assert abs(lengths.mean() - mean) < 4 * np.sqrt((law * (at - mean) ** 2).sum() / law.sum() / len(lengths))
    assert lengths.min() > 500 and lengths.max() < 2000
    # a digit is one level below the lists it is in
    lists = np.cumsum(((ids >= 11) & (ids <= 14)).astype(int) - (ids == 15), axis=1).max(axis=1)
    assert lists.max() == 9 and (lists == 9).mean() > 0.99


def test_label_marginals(long):
    """As measured on a naive generator; 6 000 examples, +- 0.02 (4 standard errors of the largest, 0.17)."""
    marginals = np.bincount(long[1], minlength=10) / len(long[1])
    expected = [0.169, 0.091, 0.078, 0.084, 0.090, 0.087, 0.077, 0.071, 0.086, 0.167]
    assert np.abs(marginals - expected).max() < 0.02


def test_trivial_baselines(long):
    """Majority 17 %, root operator 36 %, +- 2 % (2.6 standard errors); 2 000 fitted and 4 000 scored."""
    ids, labels, _ = long
    assert abs(baselines.majority_accuracy(labels[:2000], labels[2000:]) - 0.17) < 0.02
    first = baselines.first_token_accuracy(ids[:2000], labels[:2000], ids[2000:], labels[2000:])
    assert abs(first - 0.36) < 0.02


def test_baselines_by_hand():
    def padded(*sources):
        examples = map(listops.encode, sources)
        return listops.pad([(ids, listops.evaluate(ids)) for ids in examples], 4)

    fit, fit_labels = padded("[MIN 2 3 ]", "7", "7")
    ids, labels = padded("[MIN 4 2 ]", "[SM 3 4 ]", "7")
    assert baselines.majority_accuracy(fit_labels, labels) == pytest.approx(2 / 3)
    # [SM was never fitted and gets the majority's 7
    assert baselines.first_token_accuracy(fit, fit_labels, ids, labels) == 1
    assert baselines.first_token_accuracy(fit, fit_labels, ids, np.array([9, 7, 9])) == pytest.approx(1 / 3)
    # with nothing fitted both guess 0
    assert baselines.majority_accuracy(fit_labels[:0], np.array([9, 0, 9])) == pytest.approx(1 / 3)
    first = baselines.first_token_accuracy(fit[:0], fit_labels[:0], ids, np.array([9, 0, 9]))
    assert first == pytest.approx(1 / 3)


def naive_tree(rng, depth):
    """Words of a tree of the mini size, recursively, the operator last as in the released code."""
    if depth == 5 or rng.random() > 0.25:
        return [str(rng.randrange(10))]
    arguments = [naive_tree(rng, depth + 1) for _ in range(rng.randint(2, 5))]
    return [rng.choice(["[MIN", "[MAX", "[MED", "[SM"]), *sum(arguments, []), "X"]


def census(words):
    """How often a tree has each list (operator, number of arguments, depth) and each digit (digit, depth)."""
    found, open_lists = Counter(), []
    for word in words:
        if word == "X":
            found[(*open_lists.pop(), len(open_lists))] += 1
            continue
        if open_lists:
            open_lists[-1][1] += 1
        if word.isdigit():
            found[word, len(open_lists)] += 1
        else:
            open_lists.append([word, 0])
    return found


def test_same_trees_as_a_naive_generator():
    """Each of 104 census entries, mean over 5 000 trees: equal within 4.5 standard errors."""
    rng = random.Random(5)
    naive = (words for words in iter(lambda: naive_tree(rng, 1), []) if 16 < len(words) < 64)
    stream = listops.generate(5, **listops.SIZES["mini"])
    ours = ([listops.WORDS[id] for id in ids] for ids, _ in stream)
    a, b = ([census(words) for words in islice(trees, 5000)] for trees in (naive, ours))
    entries = sorted(set().union(*a, *b), key=str)
    assert len(entries) == 4 * 4 * 4 + 10 * 4
    a, b = (np.array([[tree[entry] for entry in entries] for tree in trees]) for trees in (a, b))
    error = np.sqrt((a.var(axis=0) + b.var(axis=0)) / 5000)
    assert (np.abs(a.mean(axis=0) - b.mean(axis=0)) < 4.5 * error).all()


def sources(seed, count=20):
    stream = listops.generate(seed, **listops.SIZES["mini"])
    return [listops.to_source(ids) for ids, _ in islice(stream, count)]


def test_same_seed_same_examples_in_another_process():
    script = (
        "from itertools import islice; from xfref.lra import listops;"
        "stream = listops.generate(9, **listops.SIZES['mini']);"
        "print([listops.to_source(ids) for ids, _ in islice(stream, 20)])"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "77", "PYTHONPATH": os.pathsep.join(sys.path)}
    there = subprocess.check_output([sys.executable, "-c", script], env=environment, text=True)
    assert there.strip() == repr(sources(9))
    assert sources(9) == sources(np.random.default_rng(9)) != sources(8)


def test_every_tree_once_then_a_clear_end():
    """Depth 2 with two arguments has 4 * 100 trees of length 4: all come, none twice, and then an error."""
    stream = listops.generate(0, max_depth=2, max_args=2, min_length=3, max_length=5)
    assert len({ids.tobytes() for ids, _ in islice(stream, 400)}) == 400
    with pytest.raises(ValueError, match="no new tree in a million draws after 400 examples"):
        next(stream)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"rng": None}, TypeError, "None would not be reproducible"),
        ({"max_depth": 1}, ValueError, "at least 2, got 1 and 10"),
        ({"max_args": 1}, ValueError, "at least 2, got 10 and 1"),
        ({"min_length": 9, "max_length": 10}, ValueError, "strictly between 9 and 10"),
    ],
)
def test_sizes_that_make_no_tree_raise_at_the_call(arguments, error, message):
    with pytest.raises(error, match=message):
        listops.generate(**{"rng": 0, **arguments})


def test_the_default_size_is_that_of_the_released_generator():
    size = dict(max_depth=10, max_args=10, min_length=500, max_length=2000)
    parameters = inspect.signature(listops.generate).parameters
    assert listops.SIZES["long"] == size == {name: parameters[name].default for name in size}


def test_pad_cuts_and_fills():
    ids, labels = listops.pad([(listops.encode("[SM 1 2 ]"), 3), (listops.encode("4"), 4)], 3)
    assert ids.tolist() == [[14, 2, 3], [5, 0, 0]] and labels.tolist() == [3, 4]
    assert ids.dtype == labels.dtype == np.int32
    assert listops.pad([], 3)[0].shape == (0, 3)


def test_written_file_is_the_benchmarks_form_byte_for_byte(tmp_path):
    path = tmp_path / "basic_train.tsv"
    examples = [(listops.encode("[MAX 4 3 ]"), 4), (listops.encode("[SM 9 [MIN 2 3 ] ]"), 1)]
    assert listops.write_tsv(path, examples) == 2
    assert path.read_bytes() == HEADER + GOOD + b"( ( ( [SM 9 ) ( ( ( [MIN 2 ) 3 ) ] ) ) ] )\t1\r\n"


def test_write_then_read_is_bit_equal(tmp_path, long):
    ids, labels, lengths = long
    examples = [(row[:n], v) for row, v, n in zip(ids[:300], labels[:300], lengths[:300], strict=True)]
    listops.write_tsv(tmp_path / "a.tsv", examples)
    again = list(listops.read_tsv(tmp_path / "a.tsv"))
    assert all(np.array_equal(a, b) and v == w for (a, v), (b, w) in zip(examples, again, strict=True))
    listops.write_tsv(tmp_path / "b.tsv", again)
    assert (tmp_path / "a.tsv").read_bytes() == (tmp_path / "b.tsv").read_bytes()


def test_unix_line_ends_are_read(tmp_path):
    (tmp_path / "unix.tsv").write_bytes((HEADER + GOOD).replace(b"\r", b""))
    ((ids, label),) = listops.read_tsv(tmp_path / "unix.tsv")
    assert ids.tolist() == [12, 5, 4, 15] and label == 4


HOSTILE = {
    "empty": (b"", "holds no example"),
    "header alone": (HEADER, "holds no example"),
    "no header": (GOOD, "line 1: the header is not Source, tab, Target"),
    "other header": (b"text\tlabel\n" + GOOD, "line 1: the header is not"),
    "one column": (HEADER + b"( ( ( [MAX 4 ) 3 ) ] )\n", "line 2: 2 columns are due, found 1"),
    "three columns": (HEADER + GOOD + b"3\t3\t3\n", "line 3: 2 columns are due, found 3"),
    "blank line": (HEADER + GOOD + b"\n" + GOOD, "line 3: 2 columns are due, found 1"),
    "not ascii": (HEADER + b"( \xff )\t3\n", "line 2: 'ascii' codec can't decode byte 0xff"),
    "nul": (HEADER + b"3\0\t3\n", r"line 2: unknown word '3\\x00'"),
    "unknown word": (HEADER + GOOD + b"( ( [FIRST 3 ) ] )\t3\n", r"line 3: unknown word '\[FIRST'"),
    "long word": (HEADER + b"9" * 10**5 + b"\t3\n", "line 2: unknown word '99999999999999999999'$"),
    "code": (HEADER + b"__import__('os')\t3\n", "line 2: unknown word"),
    "name of padding": (HEADER + b"<pad> 3\t3\n", "line 2: unknown word '<pad>'"),
    "name of the unknown": (HEADER + b"<oov>\t3\n", "line 2: unknown word '<oov>'"),
    "quoted": (HEADER + b'"3"\t3\n', "line 2: unknown word"),
    "brackets without spaces": (HEADER + b"(" * 10**6 + b"\t3\n", "line 2: one expression is due, found 0$"),
    "brackets with spaces": (HEADER + b"( " * 10**6 + b"\t3\n", "line 2: holds more than max_line = 1048576"),
    "nested lists": (HEADER + b"[MIN " * 10**5 + b"\t3\n", "line 2: 100000 lists are never closed$"),
    "closes": (HEADER + b"] " * 10**5 + b"\t3\n", "line 2: token 0 closes no list"),
    "left open": (HEADER + b"( ( [MAX 4 ) 3 )\t4\n", "line 2: 1 lists are never closed"),
    "empty list": (HEADER + b"( [MAX ] )\t4\n", "line 2: token 1 closes an empty list"),
    "two trees": (HEADER + b"3 4\t4\n", "line 2: one expression is due, found 2"),
    "no source": (HEADER + b"\t4\n", "line 2: one expression is due, found 0"),
    "not binary form": (HEADER + b"( [MAX 4 3 ] )\t4\n", "line 2: the round brackets are not those"),
    "X for a bracket": (HEADER + b"( ( ( [MAX 4 ) 3 ) X )\t4\n", "line 2: the round brackets are not those"),
    "wrong value": (HEADER + b"( ( ( [MAX 4 ) 3 ) ] )\t3\n", "line 2: Target is '3', the tree is worth 4"),
    "no number": (HEADER + b"3\tthree\n", "line 2: Target is 'three'"),
    "huge number": (HEADER + b"3\t" + b"9" * 5000 + b"\n", "line 2: Target is '99999999999999999999',"),
    "cut off": (HEADER + GOOD + GOOD[:12], "line 3: 2 columns are due, found 1"),
    "endless line": (b"S" * (2**20 + 1), "line 1: holds more than max_line = 1048576 bytes"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_file(tmp_path, case):
    data, message = HOSTILE[case]
    path = tmp_path / "bad.tsv"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message) as caught:
        list(listops.read_tsv(path))
    text = str(caught.value)
    assert str(path) in text and "\n" not in text and len(text) < 300 + len(str(path))


def test_examples_before_a_bad_line_are_given(tmp_path):
    (tmp_path / "late.tsv").write_bytes(HEADER + GOOD + b"?\t1\n")
    stream = listops.read_tsv(tmp_path / "late.tsv")
    assert next(stream)[1] == 4
    with pytest.raises(ValueError, match="line 3"):
        next(stream)


def test_files_that_are_none(tmp_path):
    (tmp_path / "big.tsv").write_bytes(HEADER + GOOD)
    for path, message in [(tmp_path, "is a directory"), (tmp_path / "none.tsv", "No such file")]:
        with pytest.raises(ValueError, match=message):
            next(listops.read_tsv(path))
    with pytest.raises(ValueError, match=f"holds {len(HEADER + GOOD)} bytes, more than max_bytes = 30"):
        next(listops.read_tsv(tmp_path / "big.tsv", max_bytes=30))
