"""Threads and compilation, as a user decides on them for the whole process."""

import threading
from unittest import mock

import numpy as np
import paths
import pytest

import xfaccel
from xfaccel import control
from xfaccel.engine.cpu import threads


@pytest.fixture(autouse=True)
def no_limit():
    yield
    xfaccel.set_threads(None)


def test_a_limit_holds_for_the_process_until_it_is_taken_away():
    most = threads.available()
    xfaccel.set_threads(1)
    found = []
    other = threading.Thread(target=lambda: found.append(threads.available()))
    other.start()
    other.join()
    assert (threads.available(), found, threads.reason()) == (1, [1], "set_threads" if most > 1 else mock.ANY)
    xfaccel.set_threads(None)
    assert threads.available() == most


def test_a_block_ends_its_limit_also_when_it_fails():
    most = threads.available()
    with pytest.raises(KeyError), xfaccel.set_threads(1):
        assert threads.available() == 1
        with xfaccel.set_threads(most):
            assert threads.available() == most
        assert threads.available() == 1
        raise KeyError
    assert threads.available() == most


def test_more_threads_than_there_are_change_nothing():
    most = threads.available()
    with xfaccel.set_threads(10_000):
        assert threads.available() == most


def test_calls_keep_to_the_limit(monkeypatch):
    helpers = []
    run = threads.run
    monkeypatch.setattr(threads, "run", lambda *x: helpers.append(x[-1]) or run(*x))
    q = np.ones((4, 512, 64), np.float32)
    with xfaccel.set_threads(1):
        xfaccel.attention(q, q, q)
    assert helpers == [0]


@pytest.mark.parametrize("wrong, error", [(0, ValueError), (-1, ValueError), (1.5, TypeError),
                                          ("2", TypeError), (True, TypeError)])
def test_wrong_counts_are_refused_and_change_nothing(wrong, error):
    most = threads.available()
    with pytest.raises(error, match="count needs"):
        xfaccel.set_threads(wrong)
    assert threads.available() == most


def test_every_form_of_a_kernel_that_a_call_uses_is_warmed_up(monkeypatch):
    used, warmed = set(), set()
    entry = threads._entry

    def noted(kernel, absent, dtype):
        used.add((kernel.py_func.__module__.rpartition(".")[2], absent))
        return entry(kernel, absent, dtype)

    monkeypatch.setattr(threads, "_entry", noted)
    q = np.ones((3, 4), np.float16)
    for call in [*(paths.call(name).bits for name in paths.PATHS), lambda: xfaccel.softmax(q)]:
        call()
    monkeypatch.setattr(threads, "prepare", lambda kernel, absent, dtype: warmed.add(
        (kernel.py_func.__module__.rpartition(".")[2], absent)))
    xfaccel.warmup()
    assert used <= warmed


def test_what_is_warmed_up_is_not_compiled_again():
    xfaccel.warmup(["hashing"], dtype=np.float64)
    before = threads._entry.cache_info().misses
    xfaccel.lsh_buckets(np.ones((5, 4)), np.ones((4, 2, 3)))
    assert threads._entry.cache_info().misses == before


def test_warming_up_what_is_not_there_is_refused():
    for wrong in ("hash", ["hash"], "scan"):
        with pytest.raises(ValueError, match=r"engines needs a list of softmax, .*, got '(hash|scan)'"):
            xfaccel.warmup(wrong)
    with pytest.raises(ValueError, match=r"dtype needs to be float32 or float64 .*, got float16"):
        xfaccel.warmup(dtype=np.float16)
    assert set(control._FORMS) == {"softmax", "decode", "gather", "scan", "steps", "product", "hashing",
                                   "half"}
