"""Pathfinder: labels traced anew, strokes against exact areas, the laws of paths, the benchmark's folders.

And the fast twin, whose pictures are those of xfref; with it, what simple statistics say of many.
"""

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from xfaccel.lra import pathfinder as fast
from xfref.lra import baselines, pathfinder, png

EVERY = [(16, "hard"), (24, "hard"), *[(32, level) for level in pathfinder.LEVELS], (64, "easy"),
         (128, "intermediate"), (256, "easy")]


@pytest.fixture(scope="module", params=EVERY, ids=lambda x: f"{x[0]} {x[1]}")
def drawn(request):
    """Parameters and a few pictures of a size and level."""
    parameters = pathfinder.parameters(*request.param)
    return parameters, list(islice(pathfinder.generate(5, parameters), 4))


def traced(example, margin):
    """Whether the dots are joined, without any arithmetic of angles: gaps are bridged end by end.

    Two paddles follow each other if the intersection of their lines lies a margin from the head of one and
    from the tail of the other; solved as a system of equations.
    """
    paddles = [(np.array(x[:2]), np.array(x[2:])) for x in example.paddles]

    def joined(one, two):
        (tail, head), (begin, end) = one, two
        along, on = head - tail, end - begin
        if np.linalg.norm(begin - head) > 2 * margin + 1e-6:
            return False
        if abs(along[0] * on[1] - along[1] * on[0]) < 1e-9 * np.linalg.norm(along) * np.linalg.norm(on):
            return np.linalg.norm(begin - head - 2 * margin * along / np.linalg.norm(along)) < 1e-4
        s, t = np.linalg.solve(np.stack([along, -on], axis=1), begin - head)
        return abs(s * np.linalg.norm(along) - margin) < 1e-4 and abs(t * np.linalg.norm(on) + margin) < 1e-4

    reached = {i for i, (tail, _) in enumerate(paddles) if np.allclose(tail, example.markers[0])}
    assert len(reached) == 1
    every = range(len(paddles))
    while new := {j for i in reached for j in every if joined(paddles[i], paddles[j])} - reached:
        reached |= new
    return int(any(np.allclose(paddles[i][1], example.markers[1]) for i in reached)), len(reached)


def test_labels_are_those_of_the_traced_paths(drawn):
    parameters, examples = drawn
    for example in examples:
        label, length = traced(example, example.margin)
        assert label == example.label == pathfinder.connected(example)
        assert length == parameters.contour_length


def test_the_label_of_a_swapped_end_is_seen():
    example = next(pathfinder.generate(0, pathfinder.parameters(32, "easy")))
    heads = [example.paddles[5, 2:], example.paddles[11, 2:]]
    other = heads[0] if np.allclose(example.markers[1], heads[1]) else heads[1]
    swapped = example._replace(markers=np.array([example.markers[0], other]))
    assert pathfinder.connected(swapped) == 1 - example.label
    with pytest.raises(ValueError, match="0 paddles begin at the first dot"):
        pathfinder.connected(example._replace(markers=example.markers + 0.5))
    with pytest.raises(ValueError, match="2 paddles begin at the first dot"):
        pathfinder.connected(example._replace(paddles=np.concatenate([example.paddles, example.paddles])))
    first = next(i for i in (0, 6) if np.allclose(example.paddles[i, :2], example.markers[0]))
    doubled = np.concatenate([example.paddles, example.paddles[first + 1 : first + 2]])
    with pytest.raises(ValueError, match="2 paddles go on from"):
        pathfinder.connected(example._replace(paddles=doubled))


def test_walks_by_hand():
    """Paddles of length 2 with margin 1: 0 to 2 and 4 to 6 in a line, then around the corner at 7."""
    paddles = np.array([[0, 0, 0, 2], [0, 4, 0, 6], [1, 7, 3, 7], [9, 0, 9, 2]], float)
    for end, label in [([0, 2], 1), ([0, 6], 1), ([3, 7], 1), ([9, 2], 0), ([0, 4], 0)]:
        markers, image = np.array([[0, 0], end], float), np.zeros((10, 10), np.uint8)
        # the walk goes on to the end of the path, so only its last head is a label 1
        expected = label if end == [3, 7] else 0
        assert pathfinder.connected(pathfinder.Example(image, 0, paddles, markers, 1)) == expected


def test_paths_are_as_the_parameters_say(drawn):
    p, examples = drawn
    n = p.contour_length
    for example in examples:
        tails, heads = example.paddles[:, :2], example.paddles[:, 2:]
        assert example.margin in p.margins
        assert np.allclose(np.linalg.norm(heads - tails, axis=1), p.paddle_length)
        assert np.isclose(np.linalg.norm(tails[0] - tails[n]), p.seed_distance)
        # the first path begins in the middle, and both end as far from there
        assert (np.abs(tails[0] - (p.size - 1) / 2) <= max(p.size - 4 * p.seed_distance, 1) / 2).all()
        assert abs(np.subtract(*np.linalg.norm(heads[[n - 1, 2 * n - 1]] - tails[0], axis=1))) < 1
        assert np.array_equal(example.markers, [tails[0], heads[(2 - example.label) * n - 1]])
        most = 2 * n + p.distractors * p.distractor_length
        assert 2 * n < len(tails) <= most and (len(tails) - 2 * n) % p.distractor_length == 0
        # a turn is at most pi / 2 / continuity
        angles = np.arctan2(*(heads - tails).T)
        paths = [slice(0, n), slice(n, 2 * n)]
        paths += [slice(i, i + p.distractor_length) for i in range(2 * n, len(tails), p.distractor_length)]
        for path in paths:
            turns = (np.diff(angles[path]) + np.pi) % (2 * np.pi) - np.pi
            assert (np.abs(turns) <= np.pi / 2 / p.continuity + 1e-9).all()


def covered(paddle, p, fine=16):
    """Pixels that a paddle covers for 1/32 or more, by counting points of a fine grid."""
    at = (np.arange(p.size * fine) + 0.5) / fine - 0.5
    tail, head = paddle[:2], paddle[2:]
    unit = (head - tail) / np.linalg.norm(head - tail)
    rows, columns = at[:, None] - tail[0], at - tail[1]
    along, across = rows * unit[0] + columns * unit[1], columns * unit[0] - rows * unit[1]
    inside = (along >= 0) & (along <= np.linalg.norm(head - tail))
    inside &= np.abs(across) <= p.paddle_thickness / 2
    return inside.reshape(p.size, fine, p.size, fine).mean(axis=(1, 3))


@pytest.mark.parametrize("level", ["easy", "hard"])
def test_pictures_by_counting_points(level):
    """Ink within 0.13 of the exact area, distractors brighter; no ink on the border, or of two on a pixel."""
    p = pathfinder.parameters(32, level)
    for example in islice(pathfinder.generate(9, p), 3):
        shares = np.array([covered(paddle, p) for paddle in example.paddles])
        n = p.contour_length
        at = np.arange(p.size)
        apart = np.min([np.hypot(at[:, None] - row, at - column) for row, column in example.markers], axis=0)
        expected = np.maximum(1.5 * shares[: 2 * n].max(axis=0), 2 * shares[2 * n :].max(axis=0))
        away = apart > p.marker_radius + 1
        image = example.image / 255 * max(expected.max(), 1)
        assert np.abs(image - expected)[away].max() < 0.26
        assert example.image[apart < 0.5].min() > 0.75 * example.image.max()
        assert (shares > 1 / 32).sum(axis=0).max() == 1
        border = np.ones((p.size, p.size), bool)
        border[1:-1, 1:-1] = False
        assert not example.image[border & away].any()


@pytest.mark.parametrize(("margin", "pixels"), [(1, 5), (2, 13), (3, 29)])
def test_a_head_keeps_off_ink_around_it(margin, pixels):
    """As many whole points as lie in a circle of the margin's radius, by Gauss's count."""
    canvas = pathfinder._Canvas(np.random.default_rng(0), pathfinder.parameters(128), margin)
    assert len(set(canvas.near.tolist())) == pixels


@pytest.mark.parametrize("angle", [0, 20, 45, 90, 135])
@pytest.mark.parametrize("thickness", [0.5, 1, 2])
def test_a_stroke_covers_its_area(angle, thickness):
    """Within 5 %, wherever it lies between the pixels."""
    direction = np.array([np.sin(np.deg2rad(angle)), np.cos(np.deg2rad(angle))])
    for shift in np.random.default_rng(0).random((5, 2)):
        tail = 15 + shift
        _, ink = pathfinder._stroke(tail, tail + 5 * direction, thickness, 32)
        assert ink.sum() == pytest.approx(5 * thickness, rel=0.05)
    assert pathfinder._stroke((0.1, 5), (5, 5), thickness, 32) is None
    assert pathfinder._stroke((5, 5), (5, 31.1), thickness, 32) is None


def test_table_of_parameters():
    """The numbers that the benchmark's authors give, 20 // 4 distractors of 14 // 3 paddles and so on."""
    P = pathfinder.parameters
    assert P(32) == pathfinder.Parameters(32, 1, 2, 0.5, (1,), 7, 1.5, 1.0, 1.5, 2.0, 14, 4, 5)
    assert P(64, "intermediate") == pathfinder.Parameters(64, 1, 5, 1, (1,), 12, 2.5, 1.8, 0.8, 0.8, 9, 3, 7)
    assert P(128) == pathfinder.Parameters(128, 1, 5, 1.5, (2, 3), 20, 3, 1.8, 0.9, 0.9, 14, 4, 8)
    assert P(256, "easy") == pathfinder.Parameters(256, 22, 5, 2, (3,), 27, 5, 1.8, 1.0, 1.0, 6, 2, 15)
    assert P(16) == pathfinder.Parameters(16, 1, 2, 0.5, (1,), 3, 1.5, 1.0, 1.5, 2.0, 4, 1, 4)
    assert P(24) == pathfinder.Parameters(24, 1, 2, 0.5, (1,), 5, 1.5, 1.0, 1.5, 2.0, 6, 2, 5)
    assert [P(32, level).distractors for level in pathfinder.LEVELS] == [10, 6, 5]
    for size, level in [(33, "hard"), (32, "extreme")]:
        with pytest.raises(ValueError, match=f"size must be one of 16, 24, 32, .* {size}, '{level}'"):
            P(size, level)


@pytest.mark.parametrize("size, level, seed, count", [
    (16, "hard", 0, 6), (16, "hard", 1, 6), (24, "hard", 2, 6), (32, "easy", 3, 6), (32, "hard", 4, 3),
    (64, "easy", 5, 3), (128, "easy", 6, 3), (128, "hard", 7, 1), (256, "easy", 8, 1),
])
def test_the_fast_twin_draws_the_same(size, level, seed, count):
    """Every bit of picture, paddles and dots; and the generator is left as xfref leaves it."""
    p, here, there = pathfinder.parameters(size, level), *(np.random.default_rng(seed) for _ in range(2))
    pictures = zip(pathfinder.generate(here, p), fast.generate(there, p), strict=True)
    for expected, found in islice(pictures, count):
        assert found.image.dtype == np.uint8 and np.array_equal(found.image, expected.image)
        assert (found.label, found.margin) == (expected.label, expected.margin)
        assert np.array_equal(found.paddles, expected.paddles)
        assert np.array_equal(found.markers, expected.markers)
    assert here.bit_generator.state == there.bit_generator.state


@pytest.mark.parametrize("bits", [np.random.MT19937, np.random.Philox, np.random.SFC64])
def test_the_fast_twin_takes_any_generator(bits):
    p = pathfinder.parameters(16)
    here, there = (np.random.Generator(bits(3)) for _ in range(2))
    expected, found = next(pathfinder.generate(here, p)), next(fast.generate(there, p))
    assert np.array_equal(found.image, expected.image) and found.label == expected.label


@pytest.mark.parametrize("level", ["easy", "hard"])
def test_simple_statistics_say_nothing(level):
    """2000 pictures: all labels as traced; no threshold is right for more than 55 %.

    A half is scored with the threshold that the other half fits, and the other way round. A guess that knows
    nothing is right for 50 +- 2.2 % (two standard errors); labels are as often 1, within four of them.
    """
    p = pathfinder.parameters(32, level)
    examples = list(islice(fast.generate(20201108, p), 2000))
    labels, ends = np.array([x.label for x in examples]), np.array([x.markers for x in examples])
    assert [pathfinder.connected(example) for example in examples] == labels.tolist()
    assert abs(labels.mean() - 0.5) < 4 * 0.0112
    middle, statistics = (p.size - 1) / 2, baselines.ink_statistics(np.stack([x.image for x in examples]))
    statistics |= {
        "away": np.linalg.norm(ends[:, 0] - ends[:, 1], axis=1),
        "first": np.linalg.norm(ends[:, 0] - middle, axis=1),
        "second": np.linalg.norm(ends[:, 1] - middle, axis=1),
        "row": ends[:, 1, 0],
        "column": ends[:, 1, 1],
    }
    halves = slice(0, None, 2), slice(1, None, 2)
    for name, scores in statistics.items():
        right = [baselines.threshold_accuracy(scores[fit], labels[fit], scores[test], labels[test])
                 for fit, test in (halves, halves[::-1])]
        assert np.mean(right) < 0.55, name


def test_pictures_of_a_seed_are_the_same_in_another_process():
    script = (
        "import hashlib; from xfref.lra.pathfinder import *; g = generate(7, parameters(16));"
        "print(hashlib.sha1(b''.join(next(g).image.tobytes() for _ in range(3))).hexdigest())"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    stream = pathfinder.generate(np.random.default_rng(7), pathfinder.parameters(16))
    here = hashlib.sha1(b"".join(example.image.tobytes() for example in islice(stream, 3))).hexdigest()
    assert subprocess.check_output([sys.executable, "-c", script], env=environment, text=True).strip() == here
    for module in (pathfinder, fast):
        with pytest.raises(TypeError, match="None would not be reproducible"):
            module.generate(None, pathfinder.parameters(16))


def test_a_path_without_room_leaves_the_canvas_as_it_was():
    endless = replace(pathfinder.parameters(24), distractor_length=500)
    canvas = pathfinder._Canvas(np.random.default_rng(0), endless, 1)
    before = canvas.taken.copy()
    assert pathfinder._one_path(canvas) is None
    assert np.array_equal(canvas.taken, before)


@pytest.mark.parametrize("module", [pathfinder, fast], ids=lambda x: x.__name__)
def test_no_room_is_said(module):
    tight = replace(pathfinder.parameters(16), size=6, seed_distance=2)
    with pytest.raises(ValueError, match="no room for two paths in 1000 attempts: Parameters.size=6"):
        next(module.generate(0, tight))


def test_folder_as_the_benchmark_writes_it(tmp_path):
    p = pathfinder.parameters(24)
    examples = list(islice(pathfinder.generate(1, p), 25))
    assert pathfinder.write_folder(tmp_path / "set", examples, p, each=2) == 25
    lines = (tmp_path / "set/metadata/10.npy").read_text().splitlines()
    assert lines[1] == f"imgs/10 sample_1.png 1 {examples[21].label} 1.0 6 2 2 0.5 1 1"
    again = list(pathfinder.read_folder(tmp_path / "set"))
    assert len(again) == 25
    for example, (image, label) in zip(examples, again, strict=True):  # 10.npy comes after 9.npy
        assert image.dtype == np.uint8 and np.array_equal(image, example.image) and label == example.label
    counts = {part: len(list(pathfinder.read_folder(tmp_path / "set", part)))
              for part in ("train", "validation", "test")}
    assert counts == {"train": 20, "validation": 2, "test": 3}
    (first, _), *_ = pathfinder.read_folder(str(tmp_path / "set"), "test")
    assert np.array_equal(first, examples[22].image)
    with pytest.raises(FileExistsError):
        pathfinder.write_folder(tmp_path / "set", examples, p)


def folder(path, lists, images=("imgs/0/a.png",)):
    for name, data in lists.items():
        (path / "metadata").mkdir(exist_ok=True)
        (path / "metadata" / name).write_bytes(data)
    for number, name in enumerate(images):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        png.write(path / name, np.full((2, 2), number, np.uint8))


@pytest.mark.parametrize("kind", ["U", "S"])
def test_lists_as_npy_files_of_strings(tmp_path, kind):
    """As the first generator saved them, with NumPy."""
    rows = [["imgs/0", "a.png", 0, 1, 1.8, 14], ["imgs/0", "b.png", 1, 0, 1.8, 14]]
    folder(tmp_path, {}, ["imgs/0/a.png", "imgs/0/b.png"])
    (tmp_path / "metadata").mkdir()
    np.save(tmp_path / "metadata" / "1.npy", np.array(rows, kind))
    assert [(image[0, 0], label) for image, label in pathfinder.read_folder(tmp_path)] == [(0, 1), (1, 0)]


def test_empty_pictures_and_other_files_are_left_out(tmp_path):
    folder(tmp_path, {"0.txt": b"imgs/0 empty.png 0 1 x\nimgs/0 a.png 1 0\n", "README": b"read me"})
    (tmp_path / "imgs/0/empty.png").touch()
    assert [label for _, label in pathfinder.read_folder(tmp_path)] == [0]


def npy(descr="'<U6'", shape="(1, 4)", data=b"", version=b"\x01\0", order="False"):
    header = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY" + version + len(header).to_bytes(2, "little") + header + data


GOOD = b"imgs/0 a.png 0 1\n"
HOSTILE = {
    "few columns": (GOOD + b"imgs/0 a.png 1\n", r"0.npy', line 2: 4 columns are due, found 3"),
    "empty line": (b"\n" + GOOD, "line 1: 4 columns are due, found 0"),
    "label": (b"imgs/0 a.png 0 2\n", "line 1: the label is b'2', where 0 or 1 is due"),
    "long label": (b"imgs/0 a.png 0 " + b"9" * 900, "line 1: the label is b'99999999999999999999',"),
    "not ascii": (b"imgs/0 \xff.png 0 1\n", "line 1: 'ascii' codec can't decode"),
    "nul": (b"imgs/0 a\0.png 0 1\n", "line 1: a name holds NUL"),
    "upwards": (b".. secret.png 0 1\n", r"line 1: '../secret.png' is outside of the folder"),
    "far upwards": (b"imgs/../../../etc passwd 0 1\n", "line 1: .* is outside of the folder"),
    "absolute": (GOOD + b"/etc passwd 0 1\n", "line 2: '/etc/passwd' is outside of the folder"),
    "by a link": (b"imgs/out secret.png 0 1\n", "line 1: 'imgs/out/secret.png' is outside of the folder"),
    "missing": (b"imgs/0 b.png 0 1\n", "imgs/0/b.png': No such file or directory"),
    "a folder": (b"imgs 0 0 1\n", "imgs/0': is a directory"),
    "no picture": (b"metadata 0.npy 0 1\n", "metadata/0.npy': is no PNG file"),
    "nothing": (b"", "metadata': has no list of pictures"),
    "large": (GOOD * 100, "0.npy': holds 1700 bytes, more than max_bytes = 1000"),
    "objects": (npy("'|O'", data=b"\x80\x04."), "0.npy': is an .npy file, but not of rows of strings"),
    "numbers": (npy("'<f8'", data=bytes(32)), "is an .npy file, but not of rows of strings"),
    "code": (npy("__import__('os')"), "is an .npy file, but not of rows of strings"),
    "huge": (npy("'<U9999'", "(999999999, 999)"), "holds 0 bytes of strings, where 39956003960043996 are"),
    "overflow": (npy("'<U9999999999999999'"), "but not of rows of strings"),
    "no width": (npy("'<U0'"), "but not of rows of strings"),
    "one axis": (npy(shape="(4,)"), "but not of rows of strings"),
    "order": (npy(order="True"), "but not of rows of strings"),
    "version": (npy(version=b"\x02\0"), "but not of rows of strings"),
    "deep": (b"\x93NUMPY\x01\0\xff\xff" + b"(" * 900, "but not of rows of strings"),
    "cut off": (npy(data=bytes(95)), "holds 95 bytes of strings, where 96 are due"),
    "no character": (npy(data=b"\xff" * 96), "holds a string that is not ASCII"),
    "empty strings": (npy(data=bytes(96)), "line 1: the label is b''"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_folder(tmp_path, case):
    data, message = HOSTILE[case]
    inside = tmp_path / "set"
    inside.mkdir()
    folder(inside, {"0.npy": data})
    png.write(tmp_path / "secret.png", np.ones((2, 2), np.uint8))
    (inside / "imgs/out").symlink_to(tmp_path)
    with pytest.raises(ValueError, match=message) as caught:
        list(pathfinder.read_folder(inside, max_bytes=1000))
    assert f"'{inside}" in str(caught.value) and "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300 + len(str(inside))


def test_large_pictures_are_refused(tmp_path):
    folder(tmp_path, {"0.npy": GOOD})
    with pytest.raises(ValueError, match="a.png': has 2 x 2 pixels, where 1 to 1 a side"):
        list(pathfinder.read_folder(tmp_path, max_side=1))


def test_folders_that_are_none(tmp_path):
    with pytest.raises(ValueError, match="metadata': No such file or directory"):
        pathfinder.read_folder(tmp_path)
    with pytest.raises(ValueError, match="part must be one of train, validation, test, got 'dev'"):
        pathfinder.read_folder(tmp_path, "dev")


def test_where_nothing_has_room_there_is_no_path_and_nothing_is_taken():
    canvas = pathfinder._Canvas(np.random.default_rng(0), pathfinder.parameters(32), 1)
    canvas.taken[...] = True
    assert pathfinder._one_path(canvas) is None
    assert pathfinder._distractors(canvas) == []
    assert canvas.taken.all()


def test_after_a_paddle_at_the_border_there_is_none():
    """Straight on are the pixels furthest outside at which any head may be looked for."""
    canvas = pathfinder._Canvas(np.random.default_rng(0), replace(pathfinder.parameters(32), padding=0), 1)
    last = canvas.first((28.75, 16), 0)
    assert last.head == (30.75, 16) and canvas.next(last) is None
