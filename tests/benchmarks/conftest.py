"""Limits that take no time, and threads that stay as they are, for tests of benchmarks."""

import pytest
import torch

from benchmarks.harness import limits, peaks


@pytest.fixture
def small_limits(monkeypatch):
    """Shrink the limits: the tests look at fields, not at figures."""
    monkeypatch.setattr(peaks, "DOT4_STEPS", 100)
    monkeypatch.setattr(peaks, "AMX_STEPS", 100)
    monkeypatch.setattr(limits, "CALL_BYTES", 1 << 16)
    monkeypatch.setattr(limits, "cold_bytes", lambda contenders, cache_bytes: (1 << 17, True))


@pytest.fixture(autouse=True)
def same_threads():
    """Give torch the number of threads back that a benchmark has changed."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
