"""Retrieval: the benchmark's lines by hand, pairs of a graph counted, pages of roff and mdoc written here."""

import gzip
import time
from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from xfref.lra import retrieval
from xfref.lra.retrieval import Pair


def test_ids_are_of_the_first_characters_then_the_first_bytes():
    one, two = retrieval.encode(Pair(0, "a", "b", "é" * 10_001, "A"), 20_002)
    assert one.dtype == np.int32 and one[:2].tolist() == [0xC3 + 1, 0xA9 + 1]
    assert (one > 0).sum() == 20_000  # 10 000 characters of two bytes
    assert two[:2].tolist() == [66, 0]
    assert [ids.shape for ids in retrieval.encode(Pair(0, "a", "b", "x" * 5000, ""))] == [(4000,), (4000,)]


PAIRS = [
    Pair(1, "P99-1", "W02", 'One, "quoted" text.', "Zweiter Täxt"),
    Pair(0, "a", "b", "", "x\x0b\x0c\u2028"),
    Pair(0, "a", "b", "word " * 5000, "c"),
]


def test_lines_by_hand_and_back(tmp_path):
    path = tmp_path / "new_aan_pairs.train.tsv"
    assert retrieval.write_tsv(path, PAIRS) == 3
    first, second, _ = path.read_bytes().split(b"\n", 2)
    assert first == '1\tP99-1\tW02\tOne, "quoted" text.\tZweiter Täxt'.encode()
    assert second == "0\ta\tb\t\tx\x0b\x0c\u2028".encode()
    assert list(retrieval.read_tsv(path)) == PAIRS
    path.write_bytes(b"1.0\ta\tb\tc\td\r\n0.0\ta\tb\tc\td")
    assert list(retrieval.read_tsv(str(path))) == [Pair(1, *"abcd"), Pair(0, *"abcd")]


@pytest.mark.parametrize("pair", [Pair(1, "a\t", *"bcd"), Pair(1, *"ab", "c\n", "d"), Pair(0, *"abc", "\r")])
def test_texts_that_no_line_can_hold(tmp_path, pair):
    with pytest.raises(ValueError, match="pair 2 has a tab or the end of a line"):
        retrieval.write_tsv(tmp_path / "x.tsv", [PAIRS[0], pair])


GOOD = b"1\ta\tb\tc\td\n"
BROKEN = {
    "empty": (b"", "holds no pair"),
    "columns": (GOOD + b"1\ta\tb\tc\n", "line 2: 5 columns are due, found 4"),
    "more columns": (GOOD + b"1\ta\tb\tc\td\te\n", "line 2: 5 columns are due, found 6"),
    "empty line": (GOOD + b"\n" + GOOD, "line 2: 5 columns are due, found 1"),
    "header": (b"label\tid1\tid2\ttext1\ttext2\n", "line 1: the label is 'label', where 0 or 1 is due"),
    "label": (GOOD + b"2\ta\tb\tc\td\n", "line 2: the label is '2'"),
    "no label": (b"\ta\tb\tc\td\n", "line 1: the label is ''"),
    "long label": (b"1" * 1000 + b"\ta\tb\tc\td\n", "line 1: the label is '11111111111111111111',"),
    "not utf-8": (GOOD + b"1\ta\tb\tc\t\xff\n", "line 2: 'utf-8' codec can't decode byte 0xff"),
    "long line": (GOOD + b"x" * 2000, "line 2: holds more than max_line = 1500 bytes"),
    "large": (GOOD * 1000, "holds 10000 bytes, more than max_bytes = 9999"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_file(tmp_path, case):
    data, message = BROKEN[case]
    (tmp_path / "bad.tsv").write_bytes(data)
    with pytest.raises(ValueError, match=message) as caught:
        list(retrieval.read_tsv(tmp_path / "bad.tsv", max_bytes=9999, max_line=1500))
    assert str(tmp_path / "bad.tsv") in str(caught.value) and "\n" not in str(caught.value)


def test_a_line_of_the_limit_is_read(tmp_path):
    (tmp_path / "x.tsv").write_bytes(GOOD)
    assert len(list(retrieval.read_tsv(tmp_path / "x.tsv", max_bytes=10, max_line=10))) == 1


@pytest.fixture(scope="module")
def graph():
    """400 documents, 2000 links drawn with a liking for the first, some twice or to themselves."""
    rng = np.random.default_rng(0)
    names = [f"d{i:03}" for i in range(400)]
    ends = (400 * rng.random((2000, 2)) ** 2).astype(int)
    return {name: f"text of {name}" for name in names}, [(names[a], names[b]) for a, b in ends]


def test_pairs_of_a_graph(graph):
    documents, links = graph
    linked = {frozenset(link) for link in links if link[0] != link[1]}
    parts = retrieval.pairs(documents, links, 1)
    seen = [{name for pair in part for name in (pair.id1, pair.id2)} for part in parts.values()]
    assert list(parts) == ["train", "validation", "test"]
    for i, part in enumerate(parts.values()):
        assert len(part) > 20 and sum(pair.label for pair in part) * 2 == len(part)
        assert not any(seen[i] & seen[j] for j in range(i))
        assert all(pair.label == (frozenset(pair[1:3]) in linked) for pair in part)
        assert all((documents[pair.id1], documents[pair.id2]) == pair[3:] for pair in part)
        assert len({frozenset(pair[1:3]) for pair in part}) == len(part)  # none twice, in whatever order
        # each document is first in as many linked pairs as in others
        assert Counter(p.id1 for p in part if p.label) == Counter(p.id1 for p in part if not p.label)
    # 70 % of the documents, so about half of the links, and one pair more for each
    assert 0.4 < len(parts["train"]) / 2 / len(linked) < 0.6
    labels = [pair.label for pair in parts["train"]]
    # mixed: of n pairs the first half would hold n / 4 linked ones, within 4 deviations
    assert abs(sum(labels[: len(labels) // 2]) - len(labels) / 4) < 2 * np.sqrt(len(labels)) / 2


def test_second_documents_tell_no_label(graph):
    """Each is second in as many linked pairs as in others: here all but a few in a thousand pairs."""
    documents, links = graph
    train = retrieval.pairs(documents, links, 1, shares=(100, 0, 0))["train"]
    linked, others = (Counter(pair.id2 for pair in train if pair.label == label) for label in (1, 0))
    assert (linked - others).total() < 0.01 * len(train)
    firsts = [pair.id1 < pair.id2 for pair in train if pair.label]
    # links are turned at random: half of them, within 4 deviations
    assert abs(np.mean(firsts) - 0.5) < 2 / np.sqrt(len(firsts))


@pytest.mark.parametrize("count, least", [(200, 190), (380, 322)])
def test_few_links_of_a_dense_graph_are_dropped(count, least):
    """Of 780 pairs a quarter are linked, or half: 99 % and 87 % are kept.

    Where no exchange is taken back it is 60 to 70 % of 200; where all are that leave a wrong pair, it is 82 %
    of 380.
    """
    names = [f"{i:02}" for i in range(40)]
    every = list(combinations(names, 2))
    links = [every[i] for i in np.random.default_rng(0).choice(780, count, replace=False)]
    found = retrieval.pairs(dict.fromkeys(names, ""), links, 0, shares=(100, 0, 0))["train"]
    assert sum(pair.label for pair in found) > least


def test_exchanges_that_make_nothing_worse_are_kept():
    """Nine in a ring, each linked with the two on either side: 96 % of the links are kept.

    It is 88 % where an exchange has to make something better.
    """
    links = [("abcdefghi"[i], "abcdefghi"[(i + away) % 9]) for i in range(9) for away in (1, 2)]
    kept = [len(retrieval.pairs(dict.fromkeys("abcdefghi", ""), links, seed, shares=(100, 0, 0))["train"]) / 2
            for seed in range(40)]
    assert np.mean(kept) > 0.93 * 18


def test_pairs_of_a_seed(graph):
    documents, links = graph
    reverse = dict(reversed(documents.items())), [link[::-1] for link in reversed(links)]
    assert retrieval.pairs(documents, links, 1) == retrieval.pairs(*reverse, np.random.default_rng(1))
    assert retrieval.pairs(documents, links, 1) != retrieval.pairs(documents, links, 2)
    with pytest.raises(TypeError, match="None would not be reproducible"):
        retrieval.pairs(documents, links, None)
    with pytest.raises(KeyError, match="unknown"):
        retrieval.pairs(documents, [("d001", "unknown")], 1)


def test_links_without_another_document_are_dropped():
    """A star has no pair that is not linked: each link holds its middle."""
    documents = dict.fromkeys("abcd", "text")
    # turned, a link gives others when its first end is not the middle
    for pair in retrieval.pairs(documents, [("a", "b"), ("a", "c")], 0, shares=(100, 0, 0))["train"]:
        assert pair.label or set(pair[1:3]) == {"b", "c"}
    assert retrieval.pairs(documents, [("a", "b")], 0, shares=(100, 0, 0))["train"] == []


MAN = r""".\" A comment
.TH OPEN 2 2020
.de Vb
macro text, not the page's
..
.SH NAME
open \- open a "file"
.SH "SYNOPSIS"
.BI "int open(const char *" path ", int " flags );
.PP
The \fBopen\fP() call\*(Aqs \f(CWfile\fR is a\ file\(bu \s-1BIG\s0, see
.BR close (2).
.IP "a ""b"" c" 4
C:\ersc
.SH "SEE ALSO "
.BR close (2),
\fIunknown\fP(3), \fBtiny\fR (1),
.BR open (2)
.SH COLOPHON
The end.\" hidden
"""
MDOC = r""".Dd today
.Sh NAME
.Nm tiny
.Nd a tool
.Xr alone
.Sh SEE ALSO
.Xr close 2 ,
.Xr long 3
"""


def pages(folder, **more):
    files = {"man2/open.2": MAN, "man1/tiny.1": MDOC, "man2/close.2.gz": ".SH NAME\nclose", **more,
             "man3/long.3ssl": "long\n.SH see also\nnone"}
    for name, source in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        data = source.encode("latin-1") if isinstance(source, str) else source
        (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)


def test_pages_by_hand(tmp_path):
    pages(tmp_path, **{"man3/open.3": ".so man2/open.2", "notes.txt": "text", "page.8": "page \\"})
    texts, links = retrieval.read_pages(tmp_path)
    assert texts == {
        "open.2": "NAME open - open a \"file\" SYNOPSIS int open(const char *path, int flags); The open() "
        "call's " 'file is a file* BIG, see close(2). a "b" c C:\\rsc COLOPHON The end.',
        "tiny.1": "NAME tiny a tool alone",
        "close.2": "NAME close",
        "long.3ssl": "long",
        "page.8": "page",
    }
    assert links == {
        ("close.2", "open.2"), ("open.2", "tiny.1"), ("close.2", "tiny.1"), ("long.3ssl", "tiny.1")}


def test_equal_pages_are_one(tmp_path):
    pages(tmp_path, **{"man1/copy.1": MDOC, "man8/tiny.1": "the second of its name"})
    texts, links = retrieval.read_pages(tmp_path)
    assert set(texts) == {"open.2", "copy.1", "close.2", "long.3ssl"}
    assert ("copy.1", "open.2") in links  # where open names tiny, which copy stands for
    (tmp_path / "man1/link.1").symlink_to(tmp_path / "man2/open.2")
    (tmp_path / "man5").symlink_to("/etc")
    assert retrieval.read_pages(tmp_path) == (texts, links)


def test_the_exact_section_comes_first(tmp_path):
    for name in ("f.3", "f.3x", "f.3p", "g.3x", "g.3p"):
        (tmp_path / name).write_text(f"text of {name}")
    (tmp_path / "h.1").write_text("h\n.SH SEE ALSO\nf(3), f(3x), g(3), f(4)")
    assert retrieval.read_pages(tmp_path)[1] == {("f.3", "h.1"), ("f.3x", "h.1"), ("g.3p", "h.1")}


def test_pages_are_cut(tmp_path):
    (tmp_path / "long.1").write_text("word " * 5000)
    assert retrieval.read_pages(tmp_path)[0] == {"long.1": "word " * 2000}


def test_broken_pages_are_named(tmp_path):
    pages(tmp_path)
    (tmp_path / "man1/bad.1.gz").write_bytes(gzip.compress(bytes(2000)))
    with pytest.raises(ValueError, match="bad.1.gz': unpacks to more than 1999 bytes"):
        retrieval.read_pages(tmp_path, max_bytes=1999)
    with pytest.raises(ValueError, match="man1': has more than 1 entries"):
        retrieval.read_pages(tmp_path / "man1", max_files=1)
    with pytest.raises(ValueError, match="none': No such file"):
        retrieval.read_pages(tmp_path / "none")


@pytest.mark.parametrize(
    "line",
    ["a" * 200_000, "(" * 200_000, "a(1" * 70_000, "\\f[" * 70_000, "\\s1" * 70_000, '.B "' + '"' * 200_000,
     ".B " + 'a"' * 100_000, ".Xr " + "a " * 100_000, "\\" * 200_000, '\\"' * 100_000, "\\[" * 100_000],
    ids=lambda line: line[:6],
)
def test_no_page_takes_long(tmp_path, line):
    """200 kB in SEE ALSO of whatever might be tried anew at each letter: tenths of a second, not minutes."""
    (tmp_path / "x.1").write_text(f"x\n.SH SEE ALSO\n{line}\n")
    begun = time.process_time()
    retrieval.read_pages(tmp_path)
    assert time.process_time() - begun < 10


def test_pairs_of_pages_are_written_and_read_back(tmp_path):
    pages(tmp_path)
    documents, links = retrieval.read_pages(tmp_path)
    part = retrieval.pairs(documents, links, 0, shares=(100, 0, 0))["train"]
    assert part
    retrieval.write_tsv(tmp_path / "new_aan_pairs.train.tsv", part)
    assert list(retrieval.read_tsv(tmp_path / "new_aan_pairs.train.tsv")) == part
