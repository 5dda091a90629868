"""Scratch memory: aligned, large enough, kept while it suffices, and each thread's own."""

import ctypes
import gc
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from hypothesis import given
from hypothesis import strategies as st

from bitnet_jit.devices.workspace import ALIGN, MIN_BYTES, Pool, Workspace, WorkspaceStatistics


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


def test_what_threads_hold_is_counted_while_they_live():
    counted, together = Pool(), Barrier(3)
    workspace = Workspace(counted)
    assert counted.statistics() == WorkspaceStatistics(1, MIN_BYTES + ALIGN, MIN_BYTES + ALIGN, 0)

    def take(_):
        workspace.take(1 << 20)
        together.wait(timeout=30)
        return workspace.statistics()

    with ThreadPoolExecutor(3) as pool:
        result = list(pool.map(take, range(3)))
    held = 3 * ((1 << 20) + ALIGN) + MIN_BYTES + ALIGN
    assert result[-1].threads == 4
    assert result[-1].num_bytes == held
    gc.collect()
    after = workspace.statistics()
    assert (after.threads, after.growths) == (1, 3)
    assert after.max_bytes >= held > after.num_bytes
    workspace.take(1 << 20)
    workspace.take(1 << 19)
    assert workspace.statistics().growths == 4
