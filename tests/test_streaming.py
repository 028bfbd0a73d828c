"""Decoding: one query at a time against keys that grow, and a state of constant size."""

import sys

import numpy as np
import pytest
from cases import VARIANTS

import xfaccel
from xfaccel.engine.cpu import threads

SHORT, LONG = 201, 3201
FREE_OF_LENGTH = {name: own for name, own in VARIANTS.items() if own.fitting(1, LONG)}


def python_calls(function):
    """How many functions, of Python or of C, are called on the way."""
    seen = []
    sys.setprofile(lambda frame, event, arg: seen.append(1) if event in ("call", "c_call") else None)
    try:
        function()
    finally:
        sys.setprofile(None)
    return len(seen)


@pytest.mark.parametrize("name", FREE_OF_LENGTH)
def test_one_more_key_costs_no_more_python_however_many_there_are(name):
    own, d = VARIANTS[name], 8

    def call(m):
        rng = np.random.default_rng(m)
        q, k, v = (rng.standard_normal((2, length, d), dtype=np.float32) for length in (1, m, m))
        options = {key: value(xfaccel.patterns) if callable(value) else value
                   for key, value in own.options(rng, 1, m, d, d).items()}
        function = getattr(xfaccel, own.function)
        return lambda: own.call(function, q, k, v, **options) if own.call else function(q, k, v, **options)

    with threads.limited(1):
        call(SHORT - 1)()
        call(LONG - 1)()
        compiled = threads._entry.cache_info().misses
        # neither length was there before, and the features' sums are taken in up to eight parts
        short, long = python_calls(call(SHORT)), python_calls(call(LONG))
        assert threads._entry.cache_info().misses == compiled
        again = python_calls(call(LONG))
    assert long <= 1.5 * short
    assert again <= long
