"""A folder holds the old model or the new one, whole, whatever fails or reads meanwhile."""

import json
import os
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import bitnet_jit
from bitnet_jit.checkpoints import publish
from bitnet_jit.errors import BitNetError, InvalidInput
from bitnet_jit.training.network import TrainedDecoder
from bitnet_jit.training.settings import TrainSettings

SIZES = {"layers": 1, "hidden_size": 32, "intermediate_size": 48, "heads": 2, "kv_heads": 1, "context_length": 32}
IDS = torch.arange(60, 84)[None]
INDEX = "model.safetensors.index.json"


def model(seed, **sizes):
    """Make a small decoder whose logits tell it from others."""
    decoder = TrainedDecoder(TrainSettings(**{**SIZES, "window": 8, **sizes}).decoder(), seed=seed).eval()
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.mul_(3)
    return decoder


def logits(decoder):
    with torch.no_grad():
        return decoder(IDS)


def shard(folder, count=3):
    """Part model.safetensors into several files with an index."""
    tensors, weight_map = load_file(folder / "model.safetensors"), {}
    for index in range(count):
        file = f"model-{index + 1:05}-of-{count:05}.safetensors"
        names = sorted(tensors)[index::count]
        save_file({name: tensors[name].clone() for name in names}, folder / file)
        weight_map |= dict.fromkeys(names, file)
    (folder / "model.safetensors").unlink()
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def same(a, b):
    return torch.allclose(a, b, rtol=0, atol=1e-4)


class Recorder:
    """Stands for os.replace, os.link and Path.unlink: counts calls, fails at one, and looks around before each."""

    def __init__(self, monkeypatch, fail_at=-1, look=None):
        self.calls, self.fail_at, self.look = 0, fail_at, look
        for owner, name in ((os, "replace"), (os, "link"), (Path, "unlink")):
            monkeypatch.setattr(owner, name, self.wrapped(getattr(owner, name)))

    def wrapped(self, original):
        def step(*args, **kwargs):
            if self.look is not None:
                self.look()
            self.calls += 1
            if self.calls == self.fail_at:
                raise KeyboardInterrupt
            return original(*args, **kwargs)

        return step


@pytest.fixture(params=["one file", "shards", "same config"])
def before(request, tmp_path):
    """Make a folder with an older model: of another format in one file or several, or of the same config."""
    if request.param == "same config":
        bitnet_jit.save(model(1), tmp_path, "bitlinear")
    elif request.param == "one file":
        bitnet_jit.save(model(1, hidden_size=48), tmp_path, "t5")
    else:
        bitnet_jit.save(model(1, hidden_size=48), tmp_path, "autobitlinear")
        shard(tmp_path)
    (tmp_path / "notes.txt").write_text("ours")
    return tmp_path


def test_the_old_weights_are_gone(before):
    bitnet_jit.save(model(2), before, "bitlinear")
    assert same(logits(bitnet_jit.load(before)), logits(model(2)))
    assert {file.name for file in before.iterdir()} == {"config.json", "model.safetensors", "notes.txt"}


@pytest.fixture(params=["links", "no links"])
def _file_system(request, monkeypatch):
    """Take a file system with hard links, and one without."""

    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    if request.param == "no links":
        monkeypatch.setattr(os, "link", refuse)


@pytest.mark.usefixtures("_file_system")
def test_the_old_model_stays_at_whichever_step_saving_fails(before, monkeypatch):
    old, step = contents(before), 0
    while True:
        step += 1
        with monkeypatch.context() as patched:
            recorder = Recorder(patched, fail_at=step)
            try:
                bitnet_jit.save(model(2), before, "bitlinear")
            except KeyboardInterrupt:
                pass
            else:
                assert recorder.calls < step
                break
        assert contents(before) == old
    assert step > 4
    assert same(logits(bitnet_jit.load(before)), logits(model(2)))


@pytest.mark.usefixtures("_file_system")
def test_a_reader_never_finds_a_mix(before, monkeypatch):
    allowed, seen = [logits(bitnet_jit.load(before)), logits(model(2))], set()

    def look():
        try:
            read = logits(bitnet_jit.load(before))
        except BitNetError:
            seen.add("none")
        else:
            assert any(same(read, logits) for logits in allowed)
            seen.add("a whole one")

    Recorder(monkeypatch, look=look)
    bitnet_jit.save(model(2), before, "bitlinear")
    assert "a whole one" in seen


def test_a_full_disk_leaves_the_old_model(before, monkeypatch):
    old = contents(before)

    def full(tensors, file, metadata):
        Path(file).write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(publish, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        bitnet_jit.save(model(2), before)
    assert contents(before) == old
    with pytest.raises(OSError, match="No space left"):
        bitnet_jit.save(model(2), before / "new" / "one")
    assert not (before / "new").exists()


@pytest.mark.parametrize("damage", ["a cut file", "a changed name"])
def test_files_that_are_written_wrongly_are_not_kept(before, monkeypatch, damage):
    old, right = contents(before), publish.save_file

    def wrong(tensors, file, metadata):
        if damage == "a changed name":
            tensors = {name.replace("q_proj", "Q"): tensor for name, tensor in tensors.items()}
        right(tensors, file, metadata)
        if damage == "a cut file":
            Path(file).write_bytes(Path(file).read_bytes()[:-1])

    monkeypatch.setattr(publish, "save_file", wrong)
    with pytest.raises(InvalidInput, match="model: cannot be saved, bitnet_jit.load would refuse it: "):
        bitnet_jit.save(model(2), before)
    assert contents(before) == old


def test_an_index_removes_what_it_names_in_its_own_folder_only(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for file in (tmp_path / "a.safetensors", folder / "b.safetensors", folder / "c.safetensors"):
        file.write_bytes(b"?")
    (folder / INDEX).write_text(json.dumps({"weight_map": {"x": "../a.safetensors", "y": "b.safetensors"}}))
    bitnet_jit.save(model(1), folder)
    names = {"b.safetensors", "c.safetensors", "config.json", "model.safetensors"}
    assert {file.name for file in folder.iterdir()} == names
    (folder / INDEX).write_text(json.dumps({"weight_map": {"y": "b.safetensors", "z": "model.safetensors"}}))
    bitnet_jit.save(model(2), folder)
    assert {file.name for file in folder.iterdir()} == names - {"b.safetensors"}
    assert (tmp_path / "a.safetensors").exists()
    (folder / INDEX).write_text("{")
    bitnet_jit.save(model(2), folder)
    assert same(logits(bitnet_jit.load(folder)), logits(model(2)))


@pytest.mark.parametrize(
    ("there", "kept"),
    [
        ({"eos_token_id": 0, "temperature": 0.5}, True),
        ({"temperature": 0.5}, True),
        ({"eos_token_id": [0, 7]}, False),
        ({"eos_token_id": "end"}, False),
        ([], False),
    ],
)
def test_end_tokens_of_another_model_do_not_stay(tmp_path, there, kept):
    file = tmp_path / "generation_config.json"
    file.write_text(json.dumps(there))
    bitnet_jit.save(model(1), tmp_path)
    assert bitnet_jit.load(tmp_path).config.eos_ids == (0,)
    assert json.loads(file.read_text()) == (there if kept else {"eos_token_id": [0]})


def test_places_where_no_model_can_be_saved_are_refused(tmp_path):
    (tmp_path / "file").write_text("ours")
    with pytest.raises(
        InvalidInput, match="directory: expected a folder, or a path where one can be made, got the file"
    ):
        bitnet_jit.save(model(1), tmp_path / "file")
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(InvalidInput, match="holds an adapter of peft"):
        bitnet_jit.save(model(1), tmp_path)
    assert contents(tmp_path) == {Path("file"): b"ours", Path("adapter_config.json"): b"{}"}


def test_a_damaged_tokenizer_is_found_before_it_keeps_load_from_reading(tmp_path):
    pytest.importorskip("tokenizers", reason="the package tokenizers is not installed")
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(InvalidInput, match="directory: bitnet_jit.load would refuse .*tokenizer.json"):
        bitnet_jit.save(model(1), tmp_path)
    assert contents(tmp_path) == {Path("tokenizer.json"): b"{"}


def test_links_are_replaced_and_what_they_point_to_stays(tmp_path):
    blobs, folder = tmp_path / "blobs", tmp_path / "snapshot"
    folder.mkdir()
    bitnet_jit.save(model(1), blobs)
    for file in blobs.iterdir():
        (folder / file.name).symlink_to(file)
    old = contents(blobs)
    bitnet_jit.save(model(2), folder, "i2")
    assert contents(blobs) == old
    assert not any(file.is_symlink() for file in folder.iterdir())


def test_staged_folders_that_a_killed_save_left_long_ago_go(tmp_path):
    for age in (0, 2 * publish.OLD):
        folder = tmp_path / f".{age:032x}.saving"
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"half")
        os.utime(folder, times=(time.time() - age,) * 2)
    bitnet_jit.save(model(1), tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"config.json", "model.safetensors", f".{0:032x}.saving"}
