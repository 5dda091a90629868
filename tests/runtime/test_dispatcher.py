"""The dispatcher: asks the register once a problem, and says once when only the plain torch kernel is left."""

import dataclasses
import logging

import pytest

from bitnet_jit.errors import UnsupportedProblem
from bitnet_jit.kernels import registry
from bitnet_jit.kernels.kernel import Kernel
from bitnet_jit.problem import Problem
from bitnet_jit.runtime.cache import Tuned, TuningCache
from bitnet_jit.runtime.dispatcher import Dispatcher

PROBLEM = Problem("rms_norm", "cpu", 1, 64, 64)


def kernel(name, configs=("best", "second")):
    return Kernel(name, "rms_norm", lambda problem, config: None, lambda problem: configs, lambda problem: None)


@pytest.fixture
def asked(monkeypatch):
    """The problems that the register was asked; it answers with `asked.answer`."""

    class Asked(list):
        answer = ([kernel("numba.a"), kernel("torch.a")], {})

        def __call__(self, problem):
            self.append(problem)
            return self.answer

    result = Asked()
    monkeypatch.setattr(registry, "candidates", result)
    return result


def test_the_first_kernel_with_its_first_config(asked):
    choice = Dispatcher().choose(PROBLEM)
    assert (choice.kernel.name, choice.config, choice.refusals) == ("numba.a", "best", {})


def test_a_problem_is_asked_once_and_each_problem_apart(asked):
    dispatcher = Dispatcher()
    wider = dataclasses.replace(PROBLEM, in_features=128)
    choices = [dispatcher.choose(problem) for problem in (PROBLEM, PROBLEM, wider, PROBLEM, wider)]
    assert asked == [PROBLEM, wider]
    assert choices[0] is choices[1] is choices[3]


def test_unlike_devices_do_not_share_a_choice(asked):
    dispatcher = Dispatcher()
    dispatcher.choose(dataclasses.replace(PROBLEM, device="one"))
    dispatcher.choose(dataclasses.replace(PROBLEM, device="another"))
    assert len(asked) == 2


def test_a_refused_problem_is_not_kept(asked):
    asked.answer = ([], {"torch.a": "not today"})
    dispatcher = Dispatcher()
    for _ in range(2):
        with pytest.raises(UnsupportedProblem, match="torch.a: not today"):
            dispatcher.choose(PROBLEM)
    assert len(asked) == 2


def test_the_fallback_is_told_once_an_op_and_device(asked, caplog):
    asked.answer = ([kernel("torch.a")], {"numba": "the package numba is not installed (pip install numba)"})
    dispatcher = Dispatcher()
    with caplog.at_level(logging.WARNING, "bitnet_jit"):
        for rows in (1, 2, 4):
            dispatcher.choose(dataclasses.replace(PROBLEM, rows=rows))
        assert len(caplog.records) == 1
        dispatcher.choose(dataclasses.replace(PROBLEM, device_type="cuda"))
    assert len(caplog.records) == 2
    assert "plain torch kernel" in caplog.messages[0]
    assert "numba: the package numba is not installed" in caplog.messages[0]


def test_a_fast_kernel_is_not_worth_a_word(asked, caplog):
    with caplog.at_level(logging.DEBUG, "bitnet_jit"):
        Dispatcher().choose(PROBLEM)
    assert caplog.messages == []


@dataclasses.dataclass(frozen=True)
class Tile:
    width: int
    shape: tuple[int, int] = (1, 2)


TILES = (Tile(4), Tile(8))
TUNED = Tuned("torch.b", 1, {"width": 8, "shape": [1, 2]}, 1.0, 2.0)


@pytest.fixture
def kept(asked, tmp_path):
    """A cache beside a register of two kernels."""
    asked.answer = ([kernel("numba.a", TILES), kernel("torch.b", TILES)], {})
    return TuningCache(tmp_path)


def test_what_was_tuned_comes_before_what_is_likely(kept):
    kept.store(PROBLEM, TUNED)
    choice = Dispatcher(kept).choose(PROBLEM)
    assert (choice.kernel.name, choice.config, choice.tuned) == ("torch.b", Tile(8), TUNED)
    other = Dispatcher(kept).choose(dataclasses.replace(PROBLEM, rows=2))
    assert (other.kernel.name, other.config, other.tuned) == ("numba.a", Tile(4), None)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kernel": "numba.gone"}, "the kernel numba.gone does not take the problem"),
        ({"version": 2}, "torch.b is of version 1, 2 was timed"),
        ({"config": {"width": 16, "shape": [1, 2]}}, "torch.b has no config"),
        ({"config": {}}, "torch.b has no config"),
    ],
)
def test_what_does_not_hold_any_more_is_passed_over(kept, caplog, change, words):
    kept.store(PROBLEM, dataclasses.replace(TUNED, **change))
    with caplog.at_level(logging.INFO, "bitnet_jit"):
        choice = Dispatcher(kept).choose(PROBLEM)
    assert (choice.kernel.name, choice.config, choice.tuned) == ("numba.a", Tile(4), None)
    assert words in caplog.text


def test_the_disk_is_asked_once_a_problem(kept, monkeypatch):
    kept.store(PROBLEM, TUNED)
    dispatcher = Dispatcher(kept)
    first = dispatcher.choose(PROBLEM)
    monkeypatch.setattr(kept, "find", lambda problem: pytest.fail("asked again"))
    assert dispatcher.choose(PROBLEM) is first
