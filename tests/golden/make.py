"""Write the golden files of this folder: numbers that outside implementations of the papers return.

A developer runs this by hand in an environment that holds the peers (README.md says how); the tests only
read the `.npz` files. Each file of `recipes/` makes the cases of one paper.
"""

import argparse
import hashlib
import importlib
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
MAX_BYTES = 150_000


def write(name, cases, digest):
    arrays = {"digest": np.asarray(digest)}
    for label, (record, gap) in cases.items():
        arrays |= {f"{label}/{key}": value for key, value in record.items()}
        print(f"{name:18} {label:26} {gap:.1e}  {record['peer']}")
    path = HERE / f"{name}.npz"
    np.savez_compressed(path, **arrays)
    if path.stat().st_size > MAX_BYTES:
        raise SystemExit(f"{path.name} has {path.stat().st_size} bytes, more than {MAX_BYTES}")


def main():
    names = sorted(path.stem for path in (HERE / "recipes").glob("*.py"))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("papers", nargs="*", help=f"what to write, default all of: {', '.join(names)}")
    parser.add_argument("--peer-dir", type=Path, help="a folder with the checkouts that README.md names")
    options = parser.parse_args()
    wanted = options.papers or names
    if unknown := set(wanted) - set(names):
        parser.error(f"no such paper: {', '.join(sorted(unknown))}")
    for name in wanted:
        digest = hashlib.sha256((HERE / "recipes" / f"{name}.py").read_bytes()).hexdigest()
        write(name, importlib.import_module(f"recipes.{name}").cases(options.peer_dir), digest)


if __name__ == "__main__":
    main()
