"""Processes that die or write at the same time: a cache stays whole and loses nothing."""

import os

import pytest
from tuning_cache import script

KILL = """
random.seed(1)
found = 0
for turn in range(200):
    child = os.fork()
    if child == 0:
        for number in range(1, 10**9):
            kept.store(PROBLEM, dataclasses.replace(TUNED, microseconds=number, config={'long': 'x' * (number % 5000)}))
    time.sleep(random.random() / 50)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    tuned = kept.find(PROBLEM)
    if tuned is not None:
        assert tuned.config == {'long': 'x' * (tuned.microseconds % 5000)}
        found += 1
    else:
        assert not kept.path(PROBLEM).exists()
print(found)
"""
TOGETHER = """
children = []
for _ in range(8):
    child = os.fork()
    if child == 0:
        for number in range(100):
            kept.store(PROBLEM, dataclasses.replace(TUNED, microseconds=number + 1))
            assert 1 <= kept.find(PROBLEM).microseconds <= 100
            with kept.locked('device'):
                count = kept.folder / 'count'
                count.write_text(str(int(count.read_text()) + 1 if count.exists() else 1))
        os._exit(0)
    children.append(child)
print(sum(os.waitpid(child, 0)[1] for child in children), (kept.folder / 'count').read_text())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_killed_at_200_moments_it_leaves_nothing_that_a_reader_trips_over(tmp_path):
    assert int(script(KILL, tmp_path)) > 100


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_many_processes_at_once_lose_nothing(tmp_path):
    assert script(TOGETHER, tmp_path).split() == ["0", "800"]
    assert not list(tmp_path.glob(".*.tmp"))
