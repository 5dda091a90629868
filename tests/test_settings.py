"""Environment variables: what they mean and what they refuse."""

from pathlib import Path

import pytest

from bitnet_jit.errors import InvalidInput
from bitnet_jit.settings import Settings, read_settings


def test_nothing_set_leaves_every_choice_open():
    assert read_settings({}) == Settings(num_threads=None, cache=None)
    assert read_settings({"BITNET_JIT_NUM_THREADS": ""}) == Settings()


def test_what_is_set_is_read():
    settings = read_settings({"BITNET_JIT_NUM_THREADS": "3", "BITNET_JIT_CACHE": "~/fast", "OTHER": "x"})
    assert settings == Settings(num_threads=3, cache=Path.home() / "fast")


@pytest.mark.parametrize("value", ["~nobody-there/x", "~nobody-there"])
def test_a_user_who_is_not_known_is_left_as_it_is_written(value):
    assert read_settings({"BITNET_JIT_CACHE": value}).cache == Path(value)


@pytest.mark.parametrize("digits", [5, 30, 5000])
def test_a_thread_count_beyond_every_machine_is_refused(digits):
    with pytest.raises(InvalidInput, match="BITNET_JIT_NUM_THREADS: expected at most 4096, got '9999") as caught:
        read_settings({"BITNET_JIT_NUM_THREADS": "9" * digits})
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", " 2"])
def test_a_thread_count_that_cannot_be_meant_is_refused(value):
    with pytest.raises(InvalidInput, match=f"BITNET_JIT_NUM_THREADS: .*{value!r}"):
        read_settings({"BITNET_JIT_NUM_THREADS": value})


def test_the_process_environment_is_the_default(monkeypatch):
    monkeypatch.setenv("BITNET_JIT_NUM_THREADS", "5")
    assert read_settings().num_threads == 5


@pytest.mark.parametrize(("value", "meant"), [("1", True), ("0", False), ("", False)])
def test_tuning_as_you_go_is_switched_on_by_a_1(value, meant):
    assert read_settings({"BITNET_JIT_AUTOTUNE": value}).autotune is meant


def test_another_word_for_on_is_refused():
    with pytest.raises(InvalidInput, match="BITNET_JIT_AUTOTUNE: expected 0 or 1, got 'yes'"):
        read_settings({"BITNET_JIT_AUTOTUNE": "yes"})
