"""Does asv find what it is for? Ten slow-downs and ten commits that change nothing, planted in a clone.

    python asv_benchmarks/plant.py [--seed 1] [--keep FOLDER]

Each slow-down makes one kernel of an engine do every other of its tiles twice, 1.5 times the work, and
stays to the end; of a kernel that is but a part of what its variant does, more is done again. Each other
commit adds a comment to an engine. asv measures the ratios to `xfref` of ten variants, one for each kernel,
at every commit, and publishes; what counts is the list on its page of regressions. The first two and the
last two commits change nothing: asv wants to see both levels of a step twice.
"""

import argparse
import contextlib
import json
import os
import random
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
ENGINES = "xfaccel/engine/cpu"
LEAST_FOUND, MOST_FALSE = 9, 1
AUTHOR = ["-c", "user.name=plant", "-c", "user.email=plant@localhost"]


class Plant(NamedTuple):
    engine: str      # whose driver is made slower
    when: str        # in which of its forms
    variant: str     # that runs it
    again: float = 0.5  # how many of the tiles are done once more
    beside: str | None = None  # another variant that runs it


PLANTS = [
    Plant("softmax", "special is None and distance is None and key_mask is None", "attention",
          beside="memory_compressed"),
    Plant("softmax", "special is None and distance is None and key_mask is not None", "attention_lse"),
    Plant("softmax", "special is not None", "reformer"),
    Plant("softmax", "distance is not None and load_int(by + by_distance.KEY) != 0", "transformer_xl"),
    Plant("softmax", "distance is not None and load_int(by + by_distance.KEY) == 0", "adaptive_span"),
    Plant("gather", "True", "random_tokens"),
    Plant("scan", "kind is None", "linear_transformer"),
    Plant("scan", "kind is not None", "performer"),
    Plant("product", "True", "memory_compressed", again=2.5),
    Plant("hashing", "True", "lsh_buckets", again=1.0),
]
MEASURED = f"_ratio\\('({'|'.join(plant.variant for plant in PLANTS)})', 1024\\)"


def slowed(source: str, plant: Plant) -> str:
    """A driver's source whose threads, once all tiles are done, do some of them again, spread over all."""
    found = re.search(r"^( +)if item >= (total\w*):$", source, re.M)
    space, total = found.groups()
    more = (f"{space}if {plant.when} and {total} <= item < {total} + int({plant.again} * {total}):\n"
            f"{space}    item = 2 * (item - {total}) % {total}\n")
    return source[:found.start()] + more + source[found.start():]


def git(clone: Path, *arguments: str) -> str:
    return subprocess.run(["git", *AUTHOR, *arguments], cwd=clone, check=True, text=True,
                          stdout=subprocess.PIPE).stdout.strip()


def history(clone: Path, seed: int) -> dict[str, Plant | None]:
    """Commits on top of what is checked out, and what is planted in each."""
    middle = [*PLANTS, *[None] * (len(PLANTS) - 4)]
    random.Random(seed).shuffle(middle)
    made = {}
    for number, plant in enumerate([None, None, *middle, None, None]):
        path = clone / ENGINES / f"{plant.engine if plant else 'softmax'}.py"
        source = path.read_text()
        path.write_text(slowed(source, plant) if plant else f"{source}# {number}\n")
        git(clone, "commit", "--all", "--quiet", "--message",
            f"{plant.engine} does some of its work twice: {plant.when}" if plant else "A comment")
        made[git(clone, "rev-parse", "HEAD")] = plant
    return made


def asv(clone: Path, *arguments: str) -> None:
    environment = os.environ | {"ASV_PYTHONPATH": str(clone), "XFACCEL_CACHE_DIR": str(clone / "cache")}
    done = subprocess.run([sys.executable, "-m", "asv", *arguments], cwd=clone / "asv_benchmarks", text=True,
                          env=environment, capture_output=True)
    if done.returncode:
        raise SystemExit(f"asv {' '.join(arguments)}:\n{done.stdout}{done.stderr}")


def measure(clone: Path, commits: list[str]) -> None:
    asv(clone, "machine", "--yes")
    for number, commit in enumerate(commits):
        git(clone, "checkout", "--quiet", commit)
        asv(clone, "run", "--python=same", f"--set-commit-hash={commit}", f"--bench={MEASURED}")
        print(f"measured {number + 1} of {len(commits)}, load {os.getloadavg()[0]:.1f}", flush=True)
    asv(clone, "publish", "--no-pull")


def found(html: Path) -> list[tuple[str, str, str | None, float]]:
    """Variant, last commit, the commit before it if asv is not sure of one, and the factor, of every row."""
    commits = json.loads((html / "index.json").read_text())["revision_to_hash"]
    rows = json.loads((html / "regressions.json").read_text())["regressions"]
    return [(re.search(r"'(.*?)'", name)[1], commits[str(last)],
             None if before is None else commits[str(before)], after_value / before_value)
            for name, *_, jumps in rows for before, last, before_value, after_value in jumps]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=1, help="of the order of the commits")
    parser.add_argument("--keep", type=Path, help="where the clone with its results stays")
    options = parser.parse_args()
    kept = contextlib.nullcontext(options.keep) if options.keep else tempfile.TemporaryDirectory()
    with kept as folder:
        clone = Path(folder).resolve() / "clone"
        subprocess.run(["git", "clone", "--quiet", "--shared", ROOT, clone], check=True)
        git(clone, "checkout", "--quiet", "-B", "main")
        base, planted = git(clone, "rev-parse", "HEAD"), history(clone, options.seed)
        measure(clone, [base, *planted])
        rows = found(clone / "asv_benchmarks" / "html")
    caught, false = set(), []
    for variant, commit, before, factor in rows:
        plant = planted.get(commit)
        if before is None and plant and plant.variant == variant:
            caught.add(plant)
        elif before is not None or not plant or plant.beside != variant:
            since = f", after {before[:10]}" if before else ""
            false.append(f"{variant} at {commit[:10]}{since}, {factor:.2f}")
    factors = {variant: factor for variant, *_, factor in rows}
    for plant in PLANTS:
        print(f"{plant.variant:20}", f"found, {factors[plant.variant]:.2f}" if plant in caught else "missed")
    print(f"{len(caught)} of {len(PLANTS)} found at their commit; false alarms: {'; '.join(false) or 'none'}")
    return not (len(caught) >= LEAST_FOUND and len(false) <= MOST_FALSE)


if __name__ == "__main__":
    sys.exit(main())
