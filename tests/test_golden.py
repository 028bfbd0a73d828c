"""Both packages against numbers that outside implementations returned (golden/make.py made the files)."""

import functools
import hashlib
import json
import operator
from pathlib import Path

import numpy as np
import pytest
from test_house import both_names

import xfref

FOLDER = Path(__file__).parent / "golden"
# the attention that a block takes, where it is not `attention`
ATTEND = {"star_transformer": "star_ring", "axial_transformer": "axial"}
RECORDED = ("call", "tolerance", "reason", "peer", "out", "rows", "lse", "restated", "paper", "moved")


@functools.cache
def read(paper):
    """The cases of one file: {case: {array name: array}}; a name may hold slashes of its own."""
    cases = {}
    with np.load(FOLDER / f"{paper}.npz", allow_pickle=False) as file:
        for key in file.files:
            case, slash, name = key.partition("/")
            if slash:
                cases.setdefault(case, {})[name] = file[key]
    return cases


CASES = [(path.stem, case) for path in sorted(FOLDER.glob("*.npz")) for case in read(path.stem)]


def keywords(call, arrays, prefix=""):
    """The keyword arguments of a call; those listed under "arrays" and "pairs" are stored beside it."""
    named = {name: arrays[prefix + name] for name in call.get("arrays", ())}
    named |= {name: tuple(arrays[prefix + x] for x in pair) for name, pair in call.get("pairs", {}).items()}
    return {name: x for name, x in call.items() if name not in ("arrays", "pairs")} | named


def attention_paper(package, paper, arrays, call):
    name, place = call.pop("function", paper), call.pop("result", None)
    function = getattr(package if hasattr(package, name) else xfref, name)
    args = [arrays[x] for x in call.pop("inputs", "qkv")]
    if name.endswith("_step"):
        return in_uneven_steps(function, args, call)
    out = function(*args, **call)
    if place is not None:
        return out[place]
    return np.concatenate(out, axis=-2) if isinstance(out, tuple) else out


def in_uneven_steps(function, args, call):
    state, first = function(None, *(x[..., :5, :] for x in args), **call)
    _, rest = function(state, *(x[..., 5:, :] for x in args), **call)
    return np.concatenate([first, rest], axis=-2)


def block(package, arrays, call):
    """A block of xfref around the attention of either package."""
    name, inputs, keys = (call.pop(key) for key in ("function", "inputs", "weights"))
    inputs = [arrays[x] for x in inputs]
    if name == "layer_norm":
        return package.layer_norm(*inputs)
    weights = {}  # one dict, or one for each name before a slash
    for key in keys:
        part, _, own = key.rpartition("/")
        weights.setdefault(part, {})[own] = arrays[f"weights/{key}"]
    if name == "feed_forward":
        return xfref.feed_forward(*inputs, *weights.values())
    attend = functools.partial(getattr(package, ATTEND.get(name, "attention")),
                               **keywords(call.pop("attend", {}), arrays, "attend/"))
    function = operator.attrgetter(name)(xfref)
    out = function(*inputs, *weights.values(), attend=attend, **keywords(call, arrays))
    return np.concatenate(out, axis=-2) if isinstance(out, tuple) else out


def close(got, want, arrays, what):
    assert got.shape == want.shape and got.dtype == want.dtype, f"{what}: {got.shape} {got.dtype}"
    error = np.abs(got - want)
    if "rows" in arrays:  # rows that the peer defines otherwise
        error = error[np.broadcast_to(arrays["rows"], error.shape[:-1])]
    assert error.size and np.isfinite(error).all()
    tolerance = float(arrays["tolerance"]) + 1e-14 * np.abs(want).max()
    if got.dtype == np.float32:
        tolerance += 4 * np.finfo(np.float32).eps * np.abs(want).max()
    assert error.max() <= tolerance, f"{what}: off by {error.max():.2e}, {arrays['reason']}"


@pytest.mark.parametrize("paper, case", CASES)
def test_golden(package, paper, case):
    arrays = read(paper)[case]
    call = json.loads(str(arrays["call"]))
    what = f"{paper}/{case} against {arrays['peer']}"
    if "weights" in call:
        out = block(package, arrays, call)
    else:
        out = attention_paper(package, paper, arrays, keywords(call, arrays))
        if "lse" in arrays:
            lse = package.attention_lse(*(arrays[name] for name in "qkv"), **keywords(call, arrays))[1]
            hidden = np.isneginf(arrays["lse"])
            assert (np.isneginf(lse) == hidden).all()
            np.testing.assert_allclose(np.where(hidden, 0, lse), np.where(hidden, 0, arrays["lse"]), rtol=0,
                                       atol=1e-13)
    close(out, arrays["out"].astype(out.dtype), arrays, what)
    if "paper" in arrays:  # the peer adds an epsilon, with which the paper's form was restated in NumPy
        error = np.abs(out - arrays["paper"]).max()
        allowed = 1e-13 if out.dtype == np.float64 else 1e-5
        assert error <= allowed, f"{what}: off the paper's form by {error:.2e}"


def test_every_function_has_golden_numbers():
    found = {json.loads(str(read(paper)[case]["call"])).get("function", paper) for paper, case in CASES}
    wanted = {name for name in both_names() if not name.endswith("_step")}
    # in attention.npz, or laws
    wanted -= {"softmax", "layer_norm", "attention_lse", "merge", "quantize_rows", "patterns"}
    assert wanted <= found, f"no golden numbers: {sorted(wanted - found)}"
    assert {"encoder_block", "axial_transformer", "star_transformer", "mab"} <= found


def test_every_array_of_the_files_is_used():
    """A case whose call forgets an array that its file holds would compare another function."""
    for paper, case in CASES:
        arrays = read(paper)[case]
        call = json.loads(str(arrays["call"]))
        used = {*RECORDED, *call.get("arrays", ()), *call.get("inputs", "qkv"),
                *(name for pair in call.get("pairs", {}).values() for name in pair),
                *(f"weights/{name}" for name in call.get("weights", ())),
                *(f"attend/{name}" for name in call.get("attend", {}).get("arrays", ()))}
        assert set(arrays) <= used, f"{paper}/{case}: {sorted(set(arrays) - used)}"


def test_golden_files_say_where_they_come_from():
    for paper, case in CASES:
        arrays = read(paper)[case]
        assert "(" in str(arrays["peer"]) and str(arrays["reason"]) and 0 < float(arrays["tolerance"]) < 0.05
    for path in FOLDER.glob("*.npz"):
        recipe = FOLDER / "recipes" / f"{path.stem}.py"
        with np.load(path, allow_pickle=False) as file:
            assert str(file["digest"]) == hashlib.sha256(recipe.read_bytes()).hexdigest(), (
                f"{path.name} was not written by {recipe.name} as it stands")
