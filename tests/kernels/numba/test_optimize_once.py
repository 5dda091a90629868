"""Numba is left as it was before, whatever threads compile at the same time."""

import gc
import threading

import numba
import pytest

from bitnet_jit.kernels.numba.compiler.optimize_once import PATCHED, no_garbage_collection, only_outermost


def methods():
    return [getattr(owner, name) for owner, name in PATCHED]


def test_threads_that_compile_at_once_leave_numba_as_it_was():
    before, inside, waiting = methods(), threading.Event(), threading.Event()
    seen = []

    def first():
        with only_outermost("one"):
            inside.set()
            waiting.wait(5)
            seen.append(methods())

    def second():
        waiting.set()
        with only_outermost("other"):
            seen.append(methods())

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    threads[0].start()
    assert inside.wait(5)
    threads[1].start()
    for thread in threads:
        thread.join(10)
    assert methods() == before
    assert len(seen) == 2
    assert all(patched != original for methods in seen for patched, original in zip(methods, before, strict=True))
    assert numba.njit(lambda x: x + 1)(1) == 2


def test_numba_is_as_before_after_an_error():
    before = methods()
    with pytest.raises(RuntimeError), only_outermost("one"):
        raise RuntimeError
    assert methods() == before


def test_garbage_is_collected_again():
    with no_garbage_collection():
        assert not gc.isenabled()
    assert gc.isenabled()
