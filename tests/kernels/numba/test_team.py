"""Numbers of threads as configs: all cores, fewer, one; one first where there is little to do."""

import pytest

from bitnet_jit.kernels.numba.threads import team
from bitnet_jit.kernels.numba.threads.team import ALL, TeamConfig, all_teams, likely_teams, thread_counts


@pytest.mark.parametrize(
    ("cores", "counts"), [(1, (ALL,)), (2, (ALL, 1)), (6, (ALL, 3, 1)), (64, (ALL, 32, 16, 8, 4, 2, 1))]
)
def test_numbers_of_threads(monkeypatch, cores, counts):
    monkeypatch.setattr(team, "available_cores", lambda: cores)
    assert thread_counts(few=False) == counts
    assert thread_counts(few=True) == counts[::-1]


def test_every_tile_meets_every_number_once(monkeypatch):
    monkeypatch.setattr(team, "available_cores", lambda: 4)
    likely = likely_teams(["a", "b"], few=False)
    assert likely == (TeamConfig("a"), TeamConfig("b"), TeamConfig("a", 2), TeamConfig("a", 1))
    every = all_teams(["a", "b"], few=False)
    assert set(likely) < set(every)
    assert len(set(every)) == len(every) == 6
    assert likely_teams(["a"], few=True)[0] == TeamConfig("a", 1)
