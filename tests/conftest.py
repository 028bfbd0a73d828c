"""What all tests share: both packages, and outputs that hold NaN before a kernel writes them."""

import functools
import importlib
import os
import sys

import numpy as np
import pytest

PACKAGES = ["xfref", "xfaccel"]


def pytest_configure(config):
    if os.environ.get("NUMBA_DISABLE_JIT") == "1":
        # kernels that run as Python warn of NaN and overflow, where machine code is silent
        config.addinivalue_line("filterwarnings", r"ignore::RuntimeWarning:xfaccel\.engine\.cpu")


@pytest.fixture(params=PACKAGES)
def package(request):
    """A law or a rule holds for the specification and for its fast twin alike."""
    return importlib.import_module(request.param)


@functools.lru_cache(1)
def modules_of_xfaccel(loaded):
    """Those of this many modules that are xfaccel's: looked for anew when more have been loaded."""
    return [module for name, module in sys.modules.items() if name.split(".")[0] == "xfaccel"]


@pytest.fixture(autouse=True)
def empty_calls(monkeypatch):
    """Fill every array that the kernels are given to write with NaN; returns a sample of each such array.

    An entry that no kernel writes then shows, where fresh memory would often hold a plausible zero.
    """
    import xfaccel.arrays

    plain_empty, samples = xfaccel.arrays.empty, []

    def filled(*args, **kwargs):
        out = plain_empty(*args, **kwargs)
        if out.dtype.kind == "f":
            out.fill(np.nan)
            samples.extend(out.ravel()[:1])
        return out

    for module in modules_of_xfaccel(len(sys.modules)):
        # also where it was imported by name
        if vars(module).get("empty") is plain_empty:
            monkeypatch.setattr(module, "empty", filled)
    return samples


@pytest.fixture
def rng():
    return np.random.default_rng(20201106)
