"""One safetensors file: files of the safetensors library are read bit for bit, and no lie ends in a signal."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save, save_file

from bitnet_jit.checkpoints.formats.safetensors_file import DTYPES, SafetensorsFile
from bitnet_jit.devices.kinds import KINDS
from bitnet_jit.errors import CheckpointError
from bitnet_jit.system import stable_file

UNIX = pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")


def content(header, data=b"", size=None):
    """Return the content of a file with that header, as it is or as JSON."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if size is None else size).to_bytes(8, "little") + text + data


def entry(dtype="U8", shape=(4,), offsets=(0, 4)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def test_files_of_the_library_are_read_bit_for_bit(tmp_path):
    generator = torch.Generator().manual_seed(1)
    tensors = {"scalar": torch.tensor(2.5), "empty": torch.zeros(3, 0, 2), "é \U0001f600": torch.ones(1)}
    for name, dtype in DTYPES.items():
        raw = torch.randint(0, 2, (5, 3 * dtype.itemsize), generator=generator, dtype=torch.uint8)
        tensors[name] = raw.view(dtype)
    save_file(tensors, tmp_path / "file", {"format": "pt", "said": "a\nb"})
    with SafetensorsFile(tmp_path / "file") as file:
        assert file.metadata == {"format": "pt", "said": "a\nb"}
        assert file.tensors.keys() == tensors.keys()
        for name, tensor in tensors.items():
            read = file.read(name)
            assert (read.dtype, read.shape, read.device.type) == (tensor.dtype, tensor.shape, "cpu")
            assert torch.equal(read.view(-1).view(torch.uint8), tensor.view(-1).view(torch.uint8))
            assert file.tensors[name].shape == tuple(tensor.shape)


def test_tensors_are_memory_of_their_own(tmp_path):
    save_file({"a": torch.ones(1000)}, tmp_path / "file")
    with SafetensorsFile(tmp_path / "file") as file, torch.device("meta"):  # whatever torch's default device is
        first, second = file.read("a"), file.read("a")
    first.zero_()
    os.truncate(tmp_path / "file", 0)
    assert torch.equal(second, torch.ones(1000, device="cpu"))


def test_a_device_takes_tensors_its_own_way(tmp_path, monkeypatch):
    """A device that is filled piece by piece gets every byte of its tensor, and none of another."""
    pieces = []

    def upload(tensor, fill):
        target = tensor.view(-1).view(torch.uint8).numpy().data
        for start in range(0, len(target), 7):
            fill(target[start : start + 7], start)
            pieces.append(start)

    monkeypatch.setitem(KINDS, "cpu", replace(KINDS["cpu"], upload=upload))
    tensors = {"a": torch.randn(5, 3), "none": torch.zeros(0, 2), "b": torch.arange(33, dtype=torch.uint8)}
    save_file(tensors, tmp_path / "file")
    with SafetensorsFile(tmp_path / "file") as file:
        for name, tensor in tensors.items():
            assert torch.equal(file.read(name, torch.device("cpu")), tensor)
    assert len(pieces) == 9 + 5


LIES = {
    "nothing": b"",
    "seven bytes": bytes(7),
    "no header": content({}, size=0),
    "a header beyond the end": content(b"{}", size=1000),
    "a header of 2**64 - 1 bytes": content(b"{}", size=2**64 - 1),
    "no JSON": content(b"{x}"),
    "a list": content([]),
    "deep nesting": content(b'{"a":' * 50_000),
    "a name twice": content(b'{"a":%s,"a":%s}' % ((json.dumps(entry()).encode(),) * 2), bytes(4)),
    "half a surrogate pair": content(b'{"\\ud800":%s}' % json.dumps(entry()).encode(), bytes(4)),
    "a name that moves the cursor": content({"a\x1b[2J": entry()}, bytes(4)),
    "metadata that is a list": content({"__metadata__": ["a"]}),
    "metadata of numbers": content({"__metadata__": {"a": 1}}),
    "an entry that is a number": content({"a": 4}, bytes(4)),
    "no dtype": content({"a": {"shape": [4], "data_offsets": [0, 4]}}, bytes(4)),
    "an unknown dtype": content({"a": entry("U7")}, bytes(4)),
    "a dtype that is a list": content({"a": entry(["U8"])}, bytes(4)),
    "a shape of another size": content({"a": entry(shape=(5,))}, bytes(4)),
    "a negative shape": content({"a": entry(shape=(-2, -2))}, bytes(4)),
    "a shape of truths": content({"a": entry(shape=(True, 4))}, bytes(4)),
    "a shape of floats": content({"a": entry(shape=(4.0,))}, bytes(4)),
    "a shape that overflows": content({"a": entry(shape=(2**62, 4), offsets=(0, 0))}),
    "a shape beyond int64": content({"a": entry(shape=(2**64, 0), offsets=(0, 0))}),
    "a hundred dimensions": content({"a": entry(shape=(1,) * 100, offsets=(0, 1))}, bytes(1)),
    "offsets backwards": content({"a": entry(offsets=(4, 0))}, bytes(4)),
    "negative offsets": content({"a": entry(offsets=(-4, 0))}, bytes(4)),
    "one offset": content({"a": entry(offsets=(4,))}, bytes(4)),
    "three offsets": content({"a": entry(offsets=(0, 4, 4))}, bytes(4)),
    "a hole": content({"a": entry(), "b": entry(offsets=(5, 9))}, bytes(9)),
    "a hole before all": content({"a": entry(offsets=(1, 5))}, bytes(5)),
    "an overlap": content({"a": entry(), "b": entry(offsets=(2, 6))}, bytes(6)),
    "two tensors in one place": content({"a": entry(), "b": entry()}, bytes(4)),
    "bytes that are nobody's": content({"a": entry()}, bytes(5)),
    "bytes that lack": content({"a": entry()}, bytes(3)),
    "half a byte": content({"a": entry("F4", (3,), (0, 2))}, bytes(2)),
}


@pytest.mark.parametrize("lie", LIES)
def test_lies_of_a_header_are_told(tmp_path, lie):
    (tmp_path / "file").write_bytes(LIES[lie])
    with pytest.raises(CheckpointError, match="expected a whole safetensors file, found") as caught:
        SafetensorsFile(tmp_path / "file")
    str(caught.value).encode()


@given(flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=6))
def test_every_file_that_we_read_the_library_reads_alike(tmp_path_factory, flips):
    file = tmp_path_factory.mktemp("flips") / "file"
    whole = bytearray(save({"a": torch.arange(6.0).view(2, 3), "b": torch.ones(4, dtype=torch.uint8)}))
    for share, byte in flips:
        whole[int(share * len(whole))] = byte
    file.write_bytes(whole)
    try:
        with SafetensorsFile(file) as opened:
            tensors = {name: opened.read(name) for name in opened.tensors}
    except CheckpointError:
        return
    wanted = load_file(file)
    assert tensors.keys() == wanted.keys()
    for name in wanted:
        assert torch.equal(tensors[name].view(-1).view(torch.uint8), wanted[name].view(-1).view(torch.uint8))


@UNIX
def test_files_that_are_not_regular_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "folder").mkdir()
    for name, words in (("pipe", "a pipe"), ("zero", "a device"), ("folder", "a directory"), ("absent", "No such")):
        with pytest.raises(CheckpointError, match=f"{name}: cannot be read .*{words}"):
            SafetensorsFile(tmp_path / name)


def test_a_file_that_shrinks_or_changes_while_it_is_open_is_told(tmp_path):
    for change, words in (
        (
            lambda file: os.truncate(file, 100_000),
            "a: expected a file that stays as it is, found its end at",
        ),
        (lambda file: os.truncate(file, 0), "found its end"),
        (lambda file: os.utime(file, ns=(1, 1)), "found it is being written"),
        (lambda file: os.truncate(file, file.stat().st_size + 1), "it is being written"),
    ):
        file = tmp_path / f"file{words}"
        save_file({"a": torch.ones(100_000)}, file)
        with SafetensorsFile(file) as opened:
            change(file)
            with pytest.raises(CheckpointError, match=words):
                opened.read("a")


def test_a_file_that_is_replaced_or_removed_while_it_is_open_is_the_old_one(tmp_path):
    save_file({"a": torch.ones(100_000)}, tmp_path / "file")
    save_file({"a": torch.zeros(100_000)}, tmp_path / "new")
    with SafetensorsFile(tmp_path / "file") as opened:
        os.replace(tmp_path / "new", tmp_path / "file")
        assert torch.equal(opened.read("a"), torch.ones(100_000))
        os.unlink(tmp_path / "file")
        assert torch.equal(opened.read("a"), torch.ones(100_000))


def sparse(file, num_bytes):
    file.write_bytes(content({"a": entry("F32", (num_bytes // 4,), (0, num_bytes))}))
    os.truncate(file, file.stat().st_size + num_bytes)


def test_more_than_there_is_memory_is_refused_before_it_is_allocated(tmp_path):
    sparse(tmp_path / "file", 2**43)
    with SafetensorsFile(tmp_path / "file") as opened, pytest.raises(CheckpointError, match=r"found 8\.0 TiB"):
        opened.read("a")


@pytest.mark.skipif(sys.platform != "linux", reason="no such limit elsewhere")
def test_memory_that_cannot_be_had_is_told(tmp_path):
    sparse(tmp_path / "file", 2**34)
    code = (
        "import sys, resource; from pathlib import Path; from bitnet_jit.errors import CheckpointError\n"
        "from bitnet_jit.checkpoints.formats import tensor_bytes, safetensors_file as ours\n"
        "tensor_bytes.total_memory = lambda: 2**50; resource.setrlimit(resource.RLIMIT_AS, (2**33, 2**33))\n"
        "try: ours.SafetensorsFile(Path(sys.argv[1])).read('a')\nexcept CheckpointError as e: print(e)"
    )
    result = subprocess.run([sys.executable, "-c", code, tmp_path / "file"], capture_output=True, text=True, check=True)
    assert "a: expected memory for it, found none" in result.stdout


def test_reads_in_several_calls_of_the_system(tmp_path, monkeypatch):
    monkeypatch.setattr(stable_file, "READ_LIMIT", 1000)
    save_file({"a": torch.arange(10_000.0)}, tmp_path / "file")
    for with_position in (True, False):  # Windows has no preadv
        if not with_position:
            monkeypatch.delattr(os, "preadv")
        with SafetensorsFile(tmp_path / "file") as opened:
            assert torch.equal(opened.read("a"), torch.arange(10_000.0))
