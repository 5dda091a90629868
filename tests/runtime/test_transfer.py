"""Export and import: what one machine found, another takes over whole, marked, and only if it is alike or by force."""

import json
from dataclasses import replace

import pytest
import torch

from bitnet_jit.errors import InvalidInput
from bitnet_jit.problem import Problem
from bitnet_jit.runtime import transfer
from bitnet_jit.runtime.cache import Tuned, TuningCache
from bitnet_jit.runtime.device import fingerprint

TUNED = Tuned("numba.bit_linear", 1, {"rows": 1}, 10.0, 12.0)
HERE = fingerprint(torch.device("cpu"))
PROBLEMS = [Problem("bit_linear", "cpu", rows, 64, 96, "i2/n64k16", "a8", device=HERE) for rows in (1, 2, 4)]


@pytest.fixture
def one(tmp_path):
    """A cache that holds all problems."""
    cache = TuningCache(tmp_path / "one")
    for problem in PROBLEMS:
        cache.store(problem, TUNED)
    return cache


@pytest.fixture
def other(tmp_path):
    """An empty one."""
    return TuningCache(tmp_path / "other")


@pytest.fixture
def path(one, tmp_path):
    """All of the first in a file."""
    assert transfer.export_tuned(one, tmp_path / "fleet.json") == 3
    return tmp_path / "fleet.json"


def foreign(path):
    """The file, as if one entry came from elsewhere."""
    content = json.loads(path.read_text())
    content["entries"][0]["key"]["device"] = "Another CPU/avx2/8"
    path.write_text(json.dumps(content))


def test_what_one_machine_found_another_one_knows(path, other):
    assert transfer.import_tuned(other, path) == 3
    assert [other.find(problem) for problem in PROBLEMS] == [replace(TUNED, origin="imported")] * 3
    assert transfer.import_tuned(other, path) == 3


def test_what_was_measured_here_stays(path, other):
    own = replace(TUNED, microseconds=5.0)
    other.store(PROBLEMS[0], own)
    assert transfer.import_tuned(other, path) == 2
    assert other.find(PROBLEMS[0]) == own


def test_another_machine_is_refused_as_a_whole_and_taken_by_force(path, other):
    foreign(path)
    with pytest.raises(InvalidInput, match=r"1 of the 3 entries .* \(1 of 'Another CPU/avx2/8'\); force"):
        transfer.import_tuned(other, path)
    assert not other.folder.exists()
    assert transfer.import_tuned(other, path, force=True) == 3
    assert {other.find(problem).origin for problem in PROBLEMS} == {"imported"}


def test_other_versions_are_another_machine(path, other, monkeypatch):
    monkeypatch.setattr(transfer, "versions", lambda: {"numba": "0.1"})
    with pytest.raises(InvalidInput, match="3 of the 3 entries"):
        transfer.import_tuned(other, path)


def test_a_device_that_is_not_here_is_not_taken_even_by_force(one, other, tmp_path):
    one.store(replace(PROBLEMS[0], device_type="xpu", device="xpu"), TUNED)
    transfer.export_tuned(one, tmp_path / "fleet.json")
    assert transfer.import_tuned(other, tmp_path / "fleet.json", force=True) == 3


def spoil(field, value):
    return lambda content: content["entries"][1]["choice"].__setitem__(field, value)


@pytest.mark.parametrize(
    ("spoiled", "words"),
    [
        (lambda content: content.__setitem__("format", 99), "it is not an export of format 2"),
        (lambda content: content.__setitem__("entries", {}), "it is not an export of format 2"),
        (lambda content: content["entries"].append(3), "it is not of format 2"),
        (lambda content: content["entries"][0].pop("key"), "its key has not the fields"),
        (lambda content: content["entries"][0]["key"].__setitem__("problem", {}), "its problem has not the fields"),
        (lambda content: content["entries"][0].pop("choice"), "its choice has not the fields"),
        (spoil("microseconds", -1.0), "microseconds is -1.0"),
        (spoil("kernel", 5), "kernel is 5"),
    ],
)
def test_a_file_that_is_damaged_is_refused_as_a_whole(path, other, spoiled, words):
    content = json.loads(path.read_text())
    spoiled(content)
    path.write_text(json.dumps(content))
    with pytest.raises(InvalidInput, match=words):
        transfer.import_tuned(other, path)
    assert not other.folder.exists()


@pytest.mark.parametrize("text", ["", "[1]", "null", "{", "PNG\0"])
def test_what_is_not_ours_is_refused_in_words(tmp_path, other, text):
    (tmp_path / "file").write_text(text)
    with pytest.raises(InvalidInput, match=r"import: .*file cannot be taken over"):
        transfer.import_tuned(other, tmp_path / "file")


def test_files_that_are_not_there_or_cannot_be_are_told(tmp_path, one):
    with pytest.raises(InvalidInput, match="import: .*absent cannot be taken over"):
        transfer.import_tuned(one, tmp_path / "absent")
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match="export: .* cannot be written"):
        transfer.export_tuned(one, tmp_path / "file" / "fleet.json")


def test_damaged_entries_of_the_cache_are_not_exported(one, tmp_path):
    for text in ("{", "{}", "[1]", "null"):
        one.path(PROBLEMS[0]).write_text(text)
        assert transfer.export_tuned(one, tmp_path / "fleet.json") == 2
