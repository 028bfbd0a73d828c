"""Where compiled kernels are kept between runs, and why a stale or foreign one is never loaded.

Numba stamps a cached function with its own file only: after an upgrade that changed a helper in another file
it would load the old machine code. So the folder's name is a digest of every source of this package, of the
versions of Numba and llvmlite, and of the settings that change the code. Numba's cache files are pickles, and
loading a pickle runs what it says: the folder must belong to the caller, and nobody else may write to it.
"""

import atexit
import contextlib
import functools
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import llvmlite
import numba
from numba.core import config


@contextlib.contextmanager
def enabled() -> Iterator[None]:
    """Functions decorated with `cache=True` inside this block keep their machine code in `folder()`."""
    before = config.CACHE_DIR
    config.CACHE_DIR = str(folder())
    try:
        yield
    finally:
        config.CACHE_DIR = before


@functools.cache
def folder() -> Path:
    """The cache folder of this version of the package; made if missing. Cost: one pass over the sources."""
    path, _ = _choose()
    return path


@functools.cache
def reason() -> str:
    """Why `folder()` is where it is, in one line."""
    return _choose()[1]


@functools.cache
def _choose() -> tuple[Path, str]:
    parent, source = _parent()
    path = parent / _digest()
    try:
        parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
        _demand_private(parent, writable_by_others_is_fine_if_sticky=True)
        _demand_private(path)
        with tempfile.TemporaryFile(dir=path):
            pass
        return path, source
    except OSError as error:
        private = Path(tempfile.mkdtemp(prefix="xfaccel-"))
        atexit.register(_remove, private, os.getpid())
        return private, f"temporary, because {parent} cannot be used: {error.strerror or error}"


def _parent() -> tuple[Path, str]:
    if chosen := os.environ.get("XFACCEL_CACHE_DIR"):
        return Path(chosen), "XFACCEL_CACHE_DIR"
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "xfaccel", "XDG_CACHE_HOME"
    try:
        return Path.home() / ".cache" / "xfaccel", "the home folder"
    except RuntimeError:  # no home folder for this user
        return Path("/nonexistent/xfaccel"), "no home folder"


def _demand_private(path: Path, writable_by_others_is_fine_if_sticky: bool = False) -> None:
    """Raise PermissionError if someone else could put a file of theirs in the place of one of ours."""
    status = path.stat()
    if hasattr(os, "getuid") and status.st_uid != os.getuid():
        raise PermissionError(None, f"{path} belongs to another user")
    others = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if others and not (writable_by_others_is_fine_if_sticky and status.st_mode & stat.S_ISVTX):
        raise PermissionError(None, f"others may write to {path}")


def _digest() -> str:
    total = hashlib.sha256()
    package = Path(__file__).parents[2]
    for source in sorted(package.rglob("*.py")):
        total.update(source.relative_to(package).as_posix().encode() + b"\0" + source.read_bytes())
    chosen = [os.environ.get(f"XFACCEL_{name}") for name in ("KERNELS", "VECTOR_BYTES")]
    settings = (numba.__version__, llvmlite.__version__, config.BOUNDSCHECK, *chosen)
    total.update(repr(settings).encode())
    return total.hexdigest()[:16]


def _remove(path: Path, owner: int) -> None:
    if os.getpid() == owner:  # a forked child leaves its parent's folder alone
        shutil.rmtree(path, ignore_errors=True)
