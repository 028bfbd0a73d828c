"""asv on the newest commits of main that a machine has no results of.

    python asv_benchmarks/history.py [--number 3] [--machine reference]

The results of one machine, `reference`, are kept in the repository, so that a fresh clone shows a history;
those of other machines stay where they were made. A merge counts as one commit, as it does in asv.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
RESULTS = HERE / "results"
REFERENCE = "reference"
ASV = [sys.executable, "-m", "asv"]


def commits_of_main() -> list[str]:
    """Newest first; those of the remote if there is no local branch, as where a pull request is tested."""
    for branch in ("main", "origin/main"):
        done = subprocess.run(["git", "rev-list", "--first-parent", branch, "--"], cwd=HERE, text=True,
                              capture_output=True)
        if done.returncode == 0:
            return done.stdout.split()
    raise SystemExit(f"no branch main here: {done.stderr.strip()}")


def measured(machine: str) -> dict[str, Path]:
    """The results of a machine by their commits."""
    files = [path for path in (RESULTS / machine).glob("*.json") if path.name != "machine.json"]
    return {json.loads(path.read_text())["commit_hash"]: path for path in files}


def demand_same_processor(machine: str) -> None:
    from asv.machine import Machine  # only where asv is: the tests read results without it

    known = RESULTS / machine / "machine.json"
    then = json.loads(known.read_text())["cpu"] if known.exists() else None
    now = Machine.get_defaults()["cpu"]
    if then not in (None, now):
        raise SystemExit(f"the results of {machine} come from {then}, this is {now}: name another MACHINE")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--number", type=int, default=1, help="how many commits (default: 1)")
    parser.add_argument("--machine", default="", help="whose results they become (default: this host's)")
    options = parser.parse_args()
    named = ["--machine", options.machine] if options.machine else []
    if named:
        demand_same_processor(options.machine)
    from asv.machine import Machine

    done = measured(options.machine or Machine.get_unique_machine_name())
    wanted = [commit for commit in commits_of_main() if commit not in done][:options.number]
    if not wanted:
        print("every commit of main has results")
        return 0
    subprocess.run([*ASV, "machine", "--yes", *named], cwd=HERE, check=True, stdout=subprocess.DEVNULL)
    run = [*ASV, "run", "--show-stderr", *named, "HASHFILE:-"]
    return subprocess.run(run, cwd=HERE, text=True, input="\n".join(wanted)).returncode


if __name__ == "__main__":
    sys.exit(main())
