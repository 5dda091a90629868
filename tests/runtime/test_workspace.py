"""Scratch memory: aligned, large enough, kept while it suffices, and each thread's own."""

import ctypes
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from hypothesis import given
from hypothesis import strategies as st

from bitnet_jit.runtime.workspace import ALIGN, Workspace


@given(sizes=st.lists(st.integers(0, 1 << 20), min_size=1, max_size=5))
def test_memory_is_aligned_and_may_be_written_to_its_end(sizes):
    workspace = Workspace()
    for size in sizes:
        address = workspace.take(size)
        assert address % ALIGN == 0
        ctypes.memset(address, 0xA5, size)
        assert ctypes.string_at(address, size) == b"\xa5" * size


def test_memory_is_kept_while_it_suffices():
    workspace = Workspace()
    large = workspace.take(1 << 20)
    assert workspace.take(1) == workspace.take(1 << 19) == large


def test_release_gives_the_large_buffer_back():
    workspace = Workspace()
    workspace.take(1 << 22)
    workspace.release()
    assert workspace.num_bytes < 1 << 20


def test_threads_share_no_memory():
    workspace, together = Workspace(), Barrier(4)

    def take(_):
        address = workspace.take(1000)
        together.wait(timeout=30)
        return address

    with ThreadPoolExecutor(4) as pool:
        addresses = sorted(pool.map(take, range(4)))
    assert all(second - first >= 1000 for first, second in zip(addresses, addresses[1:], strict=False))
