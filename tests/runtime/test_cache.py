"""Tuned choices on disk: a file is whole or not there, and nothing about it is an error."""

import dataclasses
import errno
import json
import logging
import os
import sys
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tuning_cache import PROBLEM, TUNED, script

from bitnet_jit.problem import Problem
from bitnet_jit.runtime import cache
from bitnet_jit.runtime.cache import TuningCache


@pytest.fixture
def kept(tmp_path):
    return TuningCache(tmp_path / "deep" / "tuned")


def test_what_one_process_stores_another_finds(kept):
    assert kept.find(PROBLEM) is None
    kept.store(PROBLEM, TUNED)
    assert TuningCache(kept.folder).find(PROBLEM) == TUNED
    assert [path.name for path in kept.folder.iterdir()] == [kept.path(PROBLEM).name]


def test_the_later_choice_replaces_the_earlier(kept):
    for microseconds in (4.5, 3.5):
        kept.store(PROBLEM, dataclasses.replace(TUNED, microseconds=microseconds))
    assert kept.find(PROBLEM).microseconds == 3.5


def test_a_file_tells_people_what_it_is(kept):
    kept.store(PROBLEM, TUNED)
    path = kept.path(PROBLEM)
    assert path.name.startswith("bit_linear-2560x6912-m16-")
    entry = json.loads(path.read_text())
    assert entry["key"]["problem"]["layout"] == "i2/planes"
    assert entry["key"]["device"] == PROBLEM.device
    assert entry["choice"]["kernel"] == TUNED.kernel


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Problem) if f.name != "gpu"])
def test_problems_that_differ_in_anything_have_files_of_their_own(kept, field):
    value = getattr(PROBLEM, field)
    other = dataclasses.replace(PROBLEM, **{field: value + 1 if isinstance(value, int) else value + "x"})
    kept.store(PROBLEM, TUNED)
    assert kept.find(other) is None


def test_another_compiler_is_another_key(kept, monkeypatch):
    kept.store(PROBLEM, TUNED)
    monkeypatch.setattr(cache, "versions", lambda: {"triton": "9.9"})
    assert kept.find(PROBLEM) is None


def damaged(entry, **changes):
    return json.dumps(entry | {"choice": entry["choice"] | changes})


BREAK = {
    "empty": lambda entry: "",
    "half": lambda entry: json.dumps(entry)[: len(json.dumps(entry)) // 2],
    "a list": lambda entry: "[]",
    "another format": lambda entry: json.dumps(entry | {"format": 99}),
    "no key": lambda entry: json.dumps({name: entry[name] for name in entry if name != "key"}),
    "another key": lambda entry: json.dumps(entry | {"key": entry["key"] | {"device": "other"}}),
    "no choice": lambda entry: json.dumps(entry | {"choice": None}),
    "a field too many": lambda entry: damaged(entry, more=1),
    "a version that is no number": lambda entry: damaged(entry, version="1"),
    "a version that is a truth": lambda entry: damaged(entry, version=True),
    "a config that is a list": lambda entry: damaged(entry, config=[1]),
    "a time of 0": lambda entry: damaged(entry, microseconds=0),
    "a time that is no number": lambda entry: damaged(entry, microseconds=float("nan")),
    "an endless time": lambda entry: damaged(entry, default_microseconds=float("inf")),
    "a time beyond floats": lambda entry: json.dumps(entry).replace("4.5", "1e999"),
    "an endless runner-up": lambda entry: damaged(entry, runner_up_microseconds=float("inf")),
    "a runner-up of less than nothing": lambda entry: damaged(entry, runner_up_microseconds=-1),
    "nested deeply": lambda entry: "[" * 100_000,
    "a config nested deeply": lambda entry: json.dumps(entry).replace('{"stages": 4}', "[" * 9999 + "]" * 9999),
    "half a surrogate pair": lambda entry: damaged(entry, kernel="\ud800"),
    "a name twice": lambda entry: json.dumps(entry).replace('"format"', '"format": 2, "format"'),
    "a number of many digits": lambda entry: json.dumps(entry).replace("4.5", "9" * 5000),
    "megabytes": lambda entry: json.dumps(entry) + " " * 2**20,
}


@pytest.mark.parametrize("how", BREAK)
def test_a_damaged_or_foreign_file_is_a_miss_that_the_log_tells_of(kept, caplog, how):
    kept.store(PROBLEM, TUNED)
    path = kept.path(PROBLEM)
    path.write_text(BREAK[how](json.loads(path.read_text())))
    with caplog.at_level(logging.INFO, "bitnet_jit"):
        assert kept.find(PROBLEM) is None
    assert f"{path} is passed over" in caplog.text or (how == "megabytes" and "at most 1048576 bytes" in caplog.text)
    kept.store(PROBLEM, TUNED)  # and the next tuning mends it
    assert kept.find(PROBLEM) == TUNED


@given(content=st.binary(max_size=200))
def test_no_bytes_at_all_are_an_error(tmp_path_factory, content):
    kept = TuningCache(tmp_path_factory.mktemp("tuned"))
    kept.path(PROBLEM).write_bytes(content)
    assert kept.find(PROBLEM) is None


def test_a_file_in_the_folders_place_leaves_tuning_in_memory(tmp_path, caplog):
    (tmp_path / "file").write_text("mine")
    kept = TuningCache(tmp_path / "file")
    other = dataclasses.replace(PROBLEM, rows=32)
    for problem in (PROBLEM, other):
        kept.store(problem, TUNED)
        assert kept.find(problem) == TUNED
    with kept.locked("device"):
        pass
    assert [record.levelname for record in caplog.records if "this process only" in record.message] == ["WARNING"]
    assert (tmp_path / "file").read_text() == "mine"


def test_a_full_disk_leaves_no_pieces(kept, monkeypatch, caplog):
    kept.store(PROBLEM, TUNED)

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    faster = dataclasses.replace(TUNED, microseconds=1.0)
    kept.store(PROBLEM, faster)
    assert kept.find(PROBLEM) == faster
    assert TuningCache(kept.folder).find(PROBLEM) == TUNED
    assert "No space left on device" in caplog.text
    assert len(list(kept.folder.iterdir())) == 1
    monkeypatch.undo()
    kept.store(PROBLEM, faster)
    assert TuningCache(kept.folder).find(PROBLEM) == faster


def test_what_the_killed_had_begun_is_swept_away_and_what_the_living_write_is_not(kept):
    kept.store(PROBLEM, TUNED)
    old, new = (kept.folder / f".{name}.json.{uuid4().hex}.tmp" for name in ("old", "new"))
    for path in (old, new):
        path.write_text("{")
    os.utime(old, (0, 0))
    kept.store(PROBLEM, TUNED)
    assert (old.exists(), new.exists()) == (False, True)


def test_the_environment_names_the_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("BITNET_JIT_CACHE", str(tmp_path))
    assert TuningCache().folder == tmp_path / "tuned"
    monkeypatch.delenv("BITNET_JIT_CACHE")
    assert "bitnet_jit" in str(TuningCache().folder)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")
def test_what_lies_in_the_place_of_a_file_is_a_miss_and_no_wait(kept, caplog):
    path = kept.path(PROBLEM)
    path.parent.mkdir(parents=True)
    for make in (
        lambda: os.mkfifo(path),
        path.mkdir,
        lambda: path.symlink_to("/dev/zero"),
        lambda: path.symlink_to(path.name),
        lambda: (path.touch(), os.truncate(path, 2**43)),
    ):
        make()
        with caplog.at_level(logging.INFO, "bitnet_jit"):
            assert kept.find(PROBLEM) is None
            assert kept.find(PROBLEM) is None
            assert list(kept.entries()) == []
        path.rmdir() if path.is_dir() else path.unlink()
    told = [record.getMessage() for record in caplog.records if "cannot be looked up" in record.getMessage()]
    assert len(told) == len(set(told)) == 5  # once for each reason


PLACES = {
    "a user who is not known": {"BITNET_JIT_CACHE": "~nobody-there/x"},
    "a device": {"BITNET_JIT_CACHE": "/dev/null"},
    "a folder below a device": {"BITNET_JIT_CACHE": "/dev/null/x"},
    "a name too long": {"BITNET_JIT_CACHE": "/" + "n" * 300},
    "a path too long": {"BITNET_JIT_CACHE": "/n" * 5000},
    "a folder that nobody may make": {"BITNET_JIT_CACHE": "/proc/x"},
    "no home": {"HOME": "", "XDG_CACHE_HOME": ""},
}


@pytest.mark.skipif(sys.platform != "linux", reason="these are Linux's places")
@pytest.mark.parametrize("what", PLACES)
def test_where_there_is_no_place_nothing_is_kept_and_nothing_fails(tmp_path, what):
    environ = {name: value for name, value in os.environ.items() if name != "BITNET_JIT_CACHE"} | PLACES[what]
    said = script(NO_PLACE, tmp_path, environ=environ)
    assert said.splitlines()[-1] == "None False True []"
    assert [line for line in said.splitlines() if "cannot be written" in line], said
    assert not list(Path(__file__).parent.glob("~*"))


NO_PLACE = """
import filelock, logging, warnings
logging.basicConfig(stream=sys.stdout, level=logging.WARNING, format="%(message)s")
if os.environ.get("HOME") == "":
    del os.environ["HOME"]
    if os.getuid() == 0:
        os.setgid(54321), os.setuid(54321)  # of nobody that the system knows
kept = TuningCache()
unknown = kept.find(PROBLEM)
on_disk = kept.store(PROBLEM, TUNED)
again = kept.find(PROBLEM) == TUNED
with kept.locked("device") as held:
    assert held
try:
    entries = list(kept.entries())
except OSError:
    entries = []
print(unknown, on_disk, again, entries)
"""


def test_a_folder_for_caches_that_is_no_path_is_none(monkeypatch, tmp_path, caplog):
    monkeypatch.delenv("BITNET_JIT_CACHE")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        cache.platformdirs, "user_cache_path", lambda name: Path("~/.cache") / name
    )  # as older ones did
    kept = TuningCache()
    assert not kept.store(PROBLEM, TUNED)
    assert kept.find(PROBLEM) == TUNED
    assert TuningCache().find(PROBLEM) is None
    assert "there is no folder for caches; set BITNET_JIT_CACHE" in caplog.text
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
@pytest.mark.parametrize(("mode", "expected"), [(0o300, "True True"), (0o500, "False True"), (0o000, "False True")])
def test_a_folder_that_does_not_let_us_is_used_as_far_as_it_does(tmp_path, mode, expected):
    (tmp_path / "tuned").mkdir(mode=0o777)
    said = script(MODES, tmp_path / "tuned", oct(mode))
    assert said.splitlines()[-1] == expected


MODES = """
import filelock
folder = kept.folder
if os.getuid() == 0:  # whom no mode binds
    for above in (folder, folder.parent):
        os.chown(above, 65534, 65534)
    for above in list(folder.parents)[1:-1]:  # those that pytest makes are its user's own
        if os.stat(above).st_uid == 0 and "pytest" in str(above):
            os.chmod(above, 0o755)
    os.setgid(65534), os.setuid(65534)
os.chmod(folder, int(sys.argv[2], 8))
try:
    with kept.locked("device") as held:
        assert held
    print(kept.store(PROBLEM, TUNED), kept.find(PROBLEM) == TUNED)
finally:
    os.chmod(folder, 0o777)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no links for everybody")
def test_a_link_in_the_cache_is_replaced_and_what_it_points_to_is_not_written(kept, tmp_path):
    (tmp_path / "mine").write_text("mine")
    kept.path(PROBLEM).parent.mkdir(parents=True)
    kept.path(PROBLEM).symlink_to(tmp_path / "mine")
    assert kept.store(PROBLEM, TUNED)
    assert kept.find(PROBLEM) == TUNED
    assert (tmp_path / "mine").read_text() == "mine"
