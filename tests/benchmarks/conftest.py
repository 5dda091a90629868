"""Limits that take no time, for every test of a benchmark."""

import pytest

from benchmarks.harness import limits, peaks


@pytest.fixture
def small_limits(monkeypatch):
    """Shrink the limits: the tests look at fields, not at figures."""
    monkeypatch.setattr(peaks, "DOT4_STEPS", 100)
    monkeypatch.setattr(peaks, "AMX_STEPS", 100)
    monkeypatch.setattr(limits, "CALL_BYTES", 1 << 16)
    monkeypatch.setattr(limits, "cold_bytes", lambda contenders, cache_bytes: (1 << 17, True))
