"""Pairs of documents, one linked to the other or not, as bytes: the document retrieval task. Two classes.

"Long Range Arena: A Benchmark for Efficient Transformers", Tay et al., 2020, arXiv:2011.04006, section 2.2.3
and appendix A.1.3: does one paper of the ACL Anthology cite the other? Each document is read on its own, and
what a model made of it is compared.

The benchmark's pairs are in files of tab-separated columns (`read_tsv`). `pairs` makes such pairs of any
documents and links, so that no single document tells the label: as a first and as a second document each is
in as many linked pairs as in others. `read_pages` finds documents with links on many machines: manual
pages, whose section SEE ALSO names others.

Differs: the parts that `pairs` makes have no document in common; those of the benchmark's files have.
"""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from . import text
from .files import generator, names_in, read_unzipped, reading, split

CHARACTERS = 10_000  # of a document at most, before it is cut to a length in bytes


class Pair(NamedTuple):
    """Two documents with their names, and whether they are linked, 1 or 0."""

    label: int
    id1: str
    id2: str
    text1: str
    text2: str


def encode(pair: Pair, length: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Ids (length,), int32, of both documents: the first `length` bytes of their first 10 000 characters.

    >>> encode(Pair(1, "a", "b", "AB", "C"), 3)
    (array([66, 67,  0], dtype=int32), array([68,  0,  0], dtype=int32))
    """
    one, two = (text.encode(document[:CHARACTERS].encode(), length) for document in (pair.text1, pair.text2))
    return one, two


def write_tsv(path: str | os.PathLike, pairs: Iterable[Pair]) -> int:
    """Write pairs as the benchmark's own file, such as new_aan_pairs.train.tsv, and return how many.

    Columns label, id1, id2, text1 and text2 in UTF-8, without a header. Raises ValueError for a name or text
    with a tab or the end of a line in it, which such a file cannot hold.
    """
    count = 0
    with open(path, "w", encoding="utf-8", newline="") as file:
        for count, pair in enumerate(pairs, 1):
            line = "\t".join(map(str, pair))
            if line.count("\t") != 4 or "\n" in line or "\r" in line:
                raise ValueError(f"pair {count} has a tab or the end of a line in a name or text")
            file.write(f"{line}\n")
    return count


def read_tsv(path: str | os.PathLike, *, max_bytes: int = 2**35, max_line: int = 2**24) -> Iterator[Pair]:
    """Yield the pairs of a file in the benchmark's own format.

    Nothing in the file is trusted. Raises ValueError that names the file, the line and what is wrong: a file
    over `max_bytes` or a line over `max_line` bytes, not UTF-8, other than five columns, a label that is not
    0, 1, 0.0 or 1.0, no pair at all. Cost: one line in memory at a time.
    """
    name, number = repr(os.fspath(path)), 0
    with reading(path, max_bytes) as file:
        while line := file.readline(max_line + 1):
            number += 1
            try:
                if len(line) > max_line:
                    raise ValueError(f"holds more than max_line = {max_line} bytes")
                fields = line.decode().removesuffix("\n").removesuffix("\r").split("\t")
                if len(fields) != 5:
                    raise ValueError(f"5 columns are due, found {len(fields)}")
                if fields[0] not in ("0", "1", "0.0", "1.0"):
                    raise ValueError(f"the label is {fields[0][:20]!r}, where 0 or 1 is due")
            except ValueError as error:  # UnicodeDecodeError is one
                raise ValueError(f"{name}, line {number}: {error}") from error
            yield Pair(int(fields[0][0]), *fields[1:])
    if not number:
        raise ValueError(f"{name}: holds no pair")


def pairs(
    documents: Mapping[str, str],
    links: Iterable[tuple[str, str]],
    rng: np.random.Generator | int,
    *,
    shares: tuple[int, int, int] = (70, 15, 15),
) -> dict[str, list[Pair]]:
    """Pairs for "train", "validation" and "test", half of them linked, of documents by name and their links.

    The documents are divided at random, `shares` in per cent, and a link from one part to another is dropped.
    For each link (a, b) there is a pair (a, c) that is not linked, and the c are the b in another order; a
    link for which no such order is found is dropped too. `rng` is a generator or a seed.

    Raises TypeError without a seed, KeyError for a link of an unknown document. Cost: linear in documents and
    links, up to a hundred passes over these; the texts are not copied.

    >>> letters = {letter: letter * 3 for letter in "abcdefgh"}
    >>> found = pairs(letters, zip("abcd", "efgh"), 1, shares=(100, 0, 0))["train"]
    >>> sorted(pair.label for pair in found)
    [0, 0, 0, 0, 1, 1, 1, 1]
    """
    rng, names = generator(rng), sorted(documents)
    order = [names[i] for i in rng.permutation(len(names))]
    part_of = {}
    for part, chosen in enumerate(split(len(names), shares)):
        part_of.update(dict.fromkeys(order[chosen], part))
    ends = sorted({(min(link), max(link)) for link in links if link[0] != link[1]})
    found = {}
    for part, name in enumerate(("train", "validation", "test")):
        inside = [link for link in ends if part_of[link[0]] == part_of[link[1]] == part]
        found[name] = [
            Pair(label, a, b, documents[a], documents[b]) for label, a, b in _with_others(rng, inside)
        ]
    return found


def _with_others(rng, links):
    """Label and names of each link, turned at random, and of a pair for each that is none."""
    turns = (rng.random(len(links)) < 0.5).tolist()
    turned = [link[::-1] if turn else link for link, turn in zip(links, turns, strict=True)]
    linked = set(map(frozenset, links))
    others = [turned[i][1] for i in rng.permutation(len(links))]
    unlinked = [frozenset((a, c)) for (a, _), c in zip(turned, others, strict=True)]
    number = Counter(unlinked)

    def wrong(i):
        pair = unlinked[i]
        return len(pair) == 1 or pair in linked or number[pair] > 1

    def exchange(i, j):
        others[i], others[j] = others[j], others[i]
        for k in (i, j):
            number[unlinked[k]] -= 1
            unlinked[k] = frozenset((turned[k][0], others[k]))
            number[unlinked[k]] += 1

    # second ends change places until no pair is linked or there twice: each stands in as many pairs as before
    for _ in range(100):
        left = [i for i in range(len(links)) if wrong(i)]
        for i, j in zip(left, rng.integers(max(len(links), 1), size=len(left)).tolist(), strict=True):
            before = wrong(i) + wrong(j)
            exchange(i, j)
            if wrong(i) + wrong(j) > before:
                exchange(i, j)
    kept = [i for i in range(len(links)) if not wrong(i)]
    chosen = [(1, *turned[i]) for i in kept] + [(0, turned[i][0], others[i]) for i in kept]
    return [chosen[i] for i in rng.permutation(len(chosen))]


def read_pages(
    folder: str | os.PathLike, *, max_bytes: int = 2**22, max_files: int = 10**5
) -> tuple[dict[str, str], set[tuple[str, str]]]:
    """Texts of manual pages by name, such as "open.2", and the pairs of them that name one another.

    A page is a file whose name ends with its section, such as open.2 or open.2.gz, in `folder` or one of its
    folders, such as /usr/share/man/man2. Its text is what is left without the macros of roff or mdoc and
    without the section SEE ALSO, white space made single spaces, cut to 10 000 characters. The links are
    those of SEE ALSO to pages that were found, in either direction. Symbolic links are left out, as are pages
    without text, which point to another, and one of the same text as another stands for both.

    Nothing in a page is run or followed. Raises ValueError that names the file: larger than `max_bytes`, or
    of broken packing; and the folder if it has more than `max_files` entries. Cost: about a millisecond a
    page, and all texts in memory.
    """
    inside = names_in(folder, folders=True, max_names=max_files)
    folders = [os.fspath(folder), *(os.path.join(folder, name) for name in inside)]
    texts, references, known, stands_for = {}, [], {}, {}
    for place in folders:
        for file in names_in(place, max_names=max_files):
            if not (found := re.fullmatch(r"([\w.:+@\[-]+)\.([0-9]\w{0,9})(\.gz)?", file)):
                continue
            data = read_unzipped(os.path.join(place, file), max_bytes)
            body, see_also = _plain(data.decode(errors="replace"))
            page = f"{found[1]}.{found[2]}"
            if body and page not in stands_for:
                first = known.setdefault(body[:CHARACTERS], page)
                stands_for[page] = first  # itself, or the first page with its text
                texts[first] = body[:CHARACTERS]
                references += [(first, *reference) for reference in _REFERENCE.findall(see_also)]
    by_section = {}  # section 3 may mean 3ssl
    for page in sorted(stands_for, reverse=True):
        name, _, section = page.rpartition(".")
        by_section[name, section[0]] = page
    links = set()
    for page, name, section in references:
        exact = f"{name}.{section}"
        other = stands_for.get(exact if exact in stands_for else by_section.get((name, section[0])))
        if other and other != page:
            links.add((min(page, other), max(page, other)))
    return texts, links


# no two repetitions compete for a letter, or they have bounds: no text takes more than linear time
_ARGUMENT = re.compile(r'"((?:[^"]|"")*)"?|([^" ]\S*)')
_REFERENCE = re.compile(r"([\w.:+@-]{1,100}) ?\(([0-9]\w{0,9})\)")
_ESCAPE = re.compile(
    r"""\\(?:
    ".*                                                 # a comment
    | [fnsm*](?:[-+]?[0-9]{1,9}|\[[^]]{0,40}\]|\(..|.)  # a font, a number, a size, a colour, a string
    | \(.. | \[[^]]{0,40}\]                             # a character by name
    | .?
    )""",
    re.VERBOSE,
)
_CHARACTERS = {
    r"\-": "-", r"\e": "\\", r"\ ": " ", r"\~": " ", r"\0": " ", r"\(aq": "'", r"\(dq": '"', r"\(en": "-",
    r"\(em": "--", r"\(hy": "-", r"\(ha": "^", r"\(ti": "~", r"\(rs": "\\", r"\(bu": "*", r"\(lq": '"',
    r"\(rq": '"', r"\(oq": "'", r"\(cq": "'", r"\*(Aq": "'", r"\*(lq": '"', r"\*(rq": '"', r"\.": ".",
}
# macros whose arguments are text: those that join them, and those of man and of mdoc that do not
_JOINED = {"BR", "RB", "IR", "RI", "BI", "IB"}
_TEXT = {"B", "I", "R", "SB", "SM", "SS", "IP", "SH", "Sh"}
_MDOC = set(
    "Ss Nm Nd It Fl Ar Op Pa Em Sy Li Cm Ic Fn Fa Ft Va Vt Ev Dv Er In Dl D1 "
    "Qq Dq Sq Pq Oo Oc Ns Ta Xr".split()
)


def _plain(source):
    """The text of a page without its macros, and that of its section SEE ALSO, which is not in it."""
    body, see_also, defining = [], [], False
    into = body
    for line in source.splitlines():
        if defining:
            defining = not line.startswith("..")
        elif line[:1] in (".", "'"):
            macro, _, rest = line[1:].strip().partition(" ")
            words = [quoted.replace('""', '"') or plain for quoted, plain in _ARGUMENT.findall(rest)]
            if macro in ("de", "de1", "am", "ig"):
                defining = True
                continue
            if macro in ("SH", "Sh"):
                into = see_also if " ".join(words).strip().upper() == "SEE ALSO" else body
            if macro == "Xr" and len(words) > 1:
                into.append(f"{words[0]}({words[1]}){' '.join(words[2:])}")
            elif macro in _JOINED:
                into.append("".join(words))
            elif macro in _TEXT:
                into.append(" ".join(words[:1] if macro == "IP" else words))  # IP: a label, and how far in
            elif macro in _MDOC:
                into.append(" ".join(word for word in words if word not in _MDOC))
        else:
            into.append(line)
    return _words(body), _words(see_also)


def _words(lines):
    lines = (_ESCAPE.sub(lambda found: _CHARACTERS.get(found[0], ""), line) for line in lines)
    return " ".join(" ".join(lines).split())
