"""What a whole encoder of the Long Range Arena costs with every attention in it (LRA, Table 2).

A step is one sequence (of retrieval one pair) from ids to logits, forward. All of it but the attention is the
same work for every variant, so it is timed once for a task and a length; a cell adds the attention of one
variant, on the q, k, v of the first block, as often as the encoder has blocks. Steps of all six blocks of the
paper's encoder took 2 to 9 % longer than this sum. Memory is that of a real step with one block.

Every cell is kept as soon as it is measured, and a report that holds some is gone on with.
"""

import itertools
import json
import math
import os
from collections.abc import Callable, Sequence
from functools import partial
from types import ModuleType
from typing import NamedTuple

import numpy as np

import xfaccel
from xfaccel.arena.measure import drawn, extra_memory, parts, progress, read_tokens, times_in_turn
from xfaccel.arena.variants import VARIANTS, Variant
from xfaccel.engine.cpu import threads
from xfref.lra import encoder, files, pathfinder, pixels, required_span_of
from xfref.lra.encoder import PROFILES

Array = np.ndarray
LENGTHS = {  # of --full; the first two are what is measured without
    "text": (1024, 2048, 3072, 4096),
    "retrieval": (1024, 2048, 3072, 4096),
    "listops": (1024, 2048),
    "image": (1024,),
    "pathfinder": (1024,),
    "pathx": (16384,),
}
MAX_BYTES = 1 << 24  # of a report to go on with
LONGEST = 1 << 17  # two such texts are in the help topics of every Python
AGAIN = 15  # cells after which the rest of a step is timed again: its best time counts
SAMPLE_CALLS = 5  # of an attention for its time, unless all is asked for
SPAN_LENGTH = 1024  # the longest at which spans are read off: their time is that of values n wide
MODELS = {  # the rows of the paper's tables, and what comes nearest to them
    "attention": "Transformer", "block_local": "Local Attention", "sparse_fixed": "Sparse Transformer",
    "longformer": "Longformer", "linformer": "Linformer", "reformer": "Reformer",
    "sinkhorn": "Sinkhorn Transformer", "synthesizer": "Synthesizer", "bigbird": "BigBird",
    "linear_transformer": "Linear Transformer", "performer": "Performer",
}
CELL = {"task": str, "length": int, "variant": str, "attention_seconds": float, "attention_bytes": int,
        "peak_bytes": int, "span": float}
MEASURED = list(CELL)[3:]  # None if there is no memory for it; a span also where it would take too long


class Setup(NamedTuple):
    """What is to be measured, and the report, which may hold some of it already."""

    cells: list[tuple[str, int, Variant]]
    report: dict


class Step(NamedTuple):
    """One block of an encoder between what is before and behind all of them, with its input."""

    run: Callable[[Callable], Array]  # of the attention
    calls: int  # of the attention in a step of the whole encoder
    rest: Callable[[], float]  # seconds of such a step without them
    qkv: tuple[Array, Array, Array]  # of the first block, (heads, n, width of a head)


def prepare(*, tasks: Sequence[str] | None, names: Sequence[str], lengths: Sequence[int] | None, full: bool,
            profile: str, machine: dict, held: dict | None) -> Setup:
    """Lay out cells and report; go on with `held`, what `read` found in the file of an earlier run.

    Raises: ValueError with one line if that was measured with another encoder or elsewhere, and for lengths
    of which there is no text.
    """
    if lengths and lengths[-1] > LONGEST:
        raise ValueError(f"--lengths {lengths[-1]}: at most {LONGEST}")
    exact = {variant.exact for variant in VARIANTS if variant.name in names}
    variants = [variant for variant in VARIANTS if variant.name in exact.union(names)]
    report = {"schema": 1, "complete": False, "machine": machine, "profile": profile, "dtype": "float32",
              "sources": {}, "rest_seconds": {}, "cells": []}
    if held is not None:
        for key in ("schema", "machine", "profile", "dtype"):
            if held[key] != report[key]:
                raise ValueError(f"--json names results of another {key}, {str(held[key])[:60]!r}: remove it "
                                 "or name another file")
        report |= {key: held[key] for key in ("sources", "rest_seconds", "cells")}
    tasks = tasks or (list(LENGTHS) if full else ["text"])
    return Setup([(task, n, variant) for task in tasks for n in lengths_of(task, lengths, full)
                  for variant in variants], report)


def lengths_of(task: str, lengths: Sequence[int] | None, full: bool) -> Sequence[int]:
    """Those that are measured: pictures have the length that they have."""
    every = LENGTHS[task]
    return every if full or len(every) == 1 else lengths or every[:2]


def read(path: str) -> dict | None:
    """The report of an earlier run, or None if there is no file.

    Raises: ValueError with one line that names the file if it holds anything else.
    """
    if not os.path.exists(path):
        return None
    data = files.read_bytes(path, MAX_BYTES)
    try:
        report = json.loads(data, parse_constant=_refuse)
        fields = dict(schema=int, complete=bool, machine=dict, profile=str, dtype=str, sources=dict,
                      rest_seconds=dict, cells=list)
        whole = _has(report, fields) and all(
            _has(cell, CELL, MEASURED) and type(report["sources"][cell["task"]]) is str
            and report["rest_seconds"][cell["task"]][str(cell["length"])] > 0 for cell in report["cells"])
    except (ValueError, TypeError, KeyError, RecursionError):
        whole = False
    if not whole:
        raise ValueError(f"{path!r}: holds no results of xfaccel lra, and is not overwritten")
    return report


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is no number of a result")


def _has(found: object, fields: dict[str, type], optional: Sequence[str] = ()) -> bool:
    """Whether it is a dict of these fields: none is another type or below 0, but the optional may be None."""
    return type(found) is dict and list(found) == list(fields) and all(
        key in optional if x is None else type(x) is kind and (kind not in (int, float) or x >= 0)
        for (key, x), kind in zip(found.items(), fields.values(), strict=True))


def run(setup: Setup, *, limit: int, repeats: int | None, save: Callable[[], None]) -> None:
    """Measure the cells that the report lacks on `limit` threads, calling `save` after each of them."""
    done = {(cell["task"], cell["length"], cell["variant"]) for cell in setup.report["cells"]}
    missing = [cell for cell in setup.cells if (cell[0], cell[1], cell[2].name) not in done]
    with threads.limited(limit), progress(len(missing), "xfaccel lra") as advance:
        for (task, n), group in itertools.groupby(missing, key=lambda cell: cell[:2]):
            step, setup.report["sources"][task] = build(task, n, setup.report["profile"])
            rest = setup.report["rest_seconds"].setdefault(task, {})
            for number, (*_, variant) in enumerate(group):
                if number % AGAIN == 0:
                    rest[str(n)] = min(rest.get(str(n), math.inf), step.rest())
                found = measure(step, variant, repeats)
                setup.report["cells"].append(dict(task=task, length=n, variant=variant.name) | found)
                save()
                advance(f"{task} {n} {variant.name}")
    setup.report["complete"] = True
    save()


def build(task: str, n: int, profile: str) -> tuple[Step, str]:
    """An encoder with n tokens of the task, of which the first is CLS if it has one, and their source."""
    sizes, call = PROFILES[profile][task]
    pair, own, blocks = "inputs" in sizes, n - sizes["cls"], sizes["layers"]
    ids, source = tokens(task, own * (1 + pair))
    given = (ids[:own], ids[own:]) if pair else (ids,)
    drawn_weights = encoder.encoder_weights(np.random.default_rng(0), **sizes | dict(length=own, layers=1))
    weights = {name: x.astype(np.float32) for name, x in drawn_weights.items()}
    bare = {name: x if name in encoder.OTHERS else x[:0] for name, x in weights.items()}
    one, none = (partial(encoder.match if pair else encoder.classify, *given, of, **call)
                 for of in (weights, bare))
    seen = []

    def identity(q: Array, k: Array, v: Array) -> Array:
        seen.extend([] if seen else (q, k, v))
        return v

    def rest() -> float:
        times = dict(times_in_turn({"one": partial(one, attend=identity), "none": none}, None))
        return times["none"] + blocks * max(times["one"] - times["none"], 0)

    one(attend=identity)
    return Step(lambda attend: one(attend=attend), blocks * (1 + pair), rest, tuple(seen)), source


def step_seconds(report: dict, cell: dict) -> float:
    """The time of a step: its attention, and the rest of it."""
    return report["rest_seconds"][cell["task"]][str(cell["length"])] + cell["attention_seconds"]


def tokens(task: str, count: int) -> tuple[Array, str]:
    """Ids (count,) of the task, and a few words on where they come from."""
    if task in ("text", "retrieval", "listops"):
        ids, _, source = read_tokens("listops" if task == "listops" else "text", None, count)
        return ids, source
    side = math.isqrt(LENGTHS[task][0])
    if task == "image":
        image = np.random.default_rng(0).integers(0, 256, (side, side), np.uint8)
        source = f"{side} x {side} random grey levels, as no picture comes with xfaccel"
    else:
        image = next(pathfinder.generate(0, pathfinder.parameters(side, "hard"))).image
        source = f"a picture of {side} x {side} pixels, hard, seed 0"
    return pixels.tokens(image[None])[0][:count], source


def measure(step: Step, variant: Variant, repeats: int | None) -> dict:
    """The numbers of a cell."""
    try:
        attend = partial(rows, xfaccel, variant, drawn(variant, step.qkv))
        attend(*step.qkv)  # compiles what was never called
        own, _ = extra_memory(partial(attend, *step.qkv))
        peak, _ = extra_memory(partial(step.run, attend))
        (_, seconds), = times_in_turn({variant.name: partial(attend, *step.qkv)}, repeats)
        short = step.qkv[0].shape[-2] <= SPAN_LENGTH
        reach = float(span(xfaccel, variant, step.qkv).mean()) if short else None
    except MemoryError:
        return dict.fromkeys(MEASURED)
    return dict(attention_seconds=step.calls * seconds, attention_bytes=own, peak_bytes=peak, span=reach)


def rows(package: ModuleType, variant: Variant, arguments: dict, q: Array, k: Array, v: Array) -> Array:
    """What the variant of one package makes of q, k, v, its decisions included: the rows of the sequence."""
    if variant.decide is not None:
        arguments = variant.decide(package, q, k, v, **arguments)
    return parts(variant.call(getattr(package, variant.function), q, k, v, **arguments))[0]


def span(package: ModuleType, variant: Variant, qkv: tuple[Array, Array, Array]) -> Array:
    """The required attention span of each head."""
    q, k, v = qkv

    def attend(values: Array) -> Array:
        values = np.ascontiguousarray(np.broadcast_to(values, (*v.shape[:-1], values.shape[-1])))
        # drawn anew, as some are made of the values, such as means that stand for many tokens
        arguments = variant.linear(drawn(variant, (q, k, values)), values.shape[-1])
        return rows(package, variant, arguments, q, k, values)

    return required_span_of(attend, v.shape[-2], dtype=v.dtype, block=256)
