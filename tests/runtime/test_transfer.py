"""Export and import: what one machine found, another takes over whole, marked, and only if it is alike or by force."""

import json
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bitnet_jit.devices.kinds import fingerprint
from bitnet_jit.errors import InvalidInput
from bitnet_jit.problem import Problem
from bitnet_jit.runtime import transfer
from bitnet_jit.runtime.cache import Tuned, TuningCache

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
    result = replace(TUNED, microseconds=5.0)
    other.store(PROBLEMS[0], result)
    assert transfer.import_tuned(other, path) == 2
    assert other.find(PROBLEMS[0]) == result


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


def ask(field, value):
    return lambda content: content["entries"][1]["key"]["problem"].__setitem__(field, value)


@pytest.mark.parametrize(
    ("spoiled", "words"),
    [
        (lambda content: content.__setitem__("format", 99), "it is not an export of format 3"),
        (lambda content: content.__setitem__("entries", {}), "it is not an export of format 3"),
        (lambda content: content["entries"].append(3), "it is not of format 3"),
        (lambda content: content["entries"][0].pop("key"), "its key has not the fields"),
        (lambda content: content["entries"][0]["key"].__setitem__("problem", {}), "its problem has not the fields"),
        (lambda content: content["entries"][0].pop("choice"), "its choice has not the fields"),
        (spoil("microseconds", -1.0), "microseconds is -1.0"),
        (spoil("kernel", 5), "kernel is 5"),
        (ask("op", "../../evil"), r"op is '../../evil'"),
        (ask("op", "a" * 1000), "op is 'aaa"),
        (ask("op", ["a"]), r"op is \['a'\]"),
        (ask("rows", "../1"), "rows is '../1'"),
        (ask("rows", True), "rows is True"),
        (ask("rows", -1), "rows is -1"),
        (ask("out_features", 2**63), "out_features is 9223372036854775808"),
        (ask("device_type", ["cpu"]), r"device_type is \['cpu'\]"),
        (ask("layout", {}), "layout is {}"),
        (lambda content: content["entries"][0]["key"].__setitem__("device", ["a"]), r"device is \['a'\]"),
        (lambda content: content["entries"][0]["key"].__setitem__("versions", ["a"]), r"versions is \['a'\]"),
        (lambda content: content["entries"][0]["key"].__setitem__("versions", {"a": 1}), r"versions is {'a': 1}"),
    ],
)
def test_a_file_that_is_damaged_is_refused_as_a_whole(path, other, spoiled, words):
    content = json.loads(path.read_text())
    spoiled(content)
    path.write_text(json.dumps(content))
    with pytest.raises(InvalidInput, match=words):
        transfer.import_tuned(other, path)
    assert not other.folder.exists()


@pytest.mark.parametrize("text", ["", "[1]", "null", "{", "PNG\0", "[" * 100_000, "9" * 5000, '{"a": 1, "a": 2}'])
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


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")
def test_an_import_of_what_is_no_file_is_refused_at_once(tmp_path, other):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "huge").touch()
    os.truncate(tmp_path / "huge", 2**43)
    for name, words in (("pipe", "a pipe"), ("folder", "a directory"), ("zero", "a device"), ("huge", "at most")):
        with pytest.raises(InvalidInput, match=f"import: .*{name} cannot be taken over: .*{words}"):
            transfer.import_tuned(other, tmp_path / name)


def test_an_import_that_cannot_be_kept_says_so(path, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InvalidInput, match="import: the folder for choices cannot be written; 0 were taken over"):
        transfer.import_tuned(TuningCache(tmp_path / "file"), path)
    with pytest.raises(InvalidInput, match="import: there is no folder to take .* over into"):
        transfer.import_tuned(TuningCache(Path("~nobody-there/x")), path)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")
def test_an_export_follows_links_and_writes_into_pipes(one, path, tmp_path):
    wanted = path.read_text()
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to("target")
    assert transfer.export_tuned(one, tmp_path / "link") == 3
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == wanted
    os.mkfifo(tmp_path / "pipe")
    got = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "pipe").read_text()))
    reader.start()
    assert transfer.export_tuned(one, tmp_path / "pipe") == 3
    reader.join(10)
    assert got == [wanted]
    assert (tmp_path / "pipe").is_fifo()
    (tmp_path / "folder").mkdir()
    with pytest.raises(InvalidInput, match="export: .*folder cannot be written .*Is a directory"):
        transfer.export_tuned(one, tmp_path / "folder")


def test_an_export_of_a_cache_that_cannot_be_listed_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InvalidInput, match="export: .*Not a directory"):
        transfer.export_tuned(TuningCache(tmp_path / "file"), tmp_path / "fleet.json")
    assert transfer.export_tuned(TuningCache(tmp_path / "absent"), tmp_path / "fleet.json") == 0
