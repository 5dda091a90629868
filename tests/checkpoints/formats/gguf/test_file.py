"""The container: a file is read as it was written, and one that lies is refused with the place."""

import contextlib
import os
import struct
import tracemalloc

import numpy as np
import pytest
import torch
from gguf import GGUFReader, GGUFValueType, GGUFWriter
from gguf_files import F32, PQ2_0, Q2_0, pack_blocks, value, write_gguf
from hypothesis import given
from hypothesis import strategies as st

from bitnet_jit.checkpoints.formats.gguf.file import GgufFile
from bitnet_jit.errors import CheckpointError

METADATA = {"a": 3, "b": 0.25, "c": True, "d": "né", "e": ["x", "", "long" * 99], "f": [1, 2, 3], "g": [], "h": [1.5]}
PLAIN = {"weight": (F32, (2, 3), np.arange(6, dtype=np.float32).tobytes()), "norm": (F32, (4,), bytes(16))}


@pytest.fixture
def write(tmp_path):
    """Return a function that writes a file, and changes its bytes if it is told how."""

    def write(metadata=METADATA, tensors=PLAIN, change=None, **options):
        path = write_gguf(tmp_path / "model.gguf", metadata, tensors, **options)
        if change is not None:
            path.write_bytes(change(path.read_bytes()))
        return path

    return write


@pytest.mark.parametrize("version", [2, 3])
def test_a_file_is_read_as_it_was_written(write, version):
    with GgufFile(write(version=version)) as file:
        read = {key: item if isinstance(item, (int, float, str)) else list(item) for key, item in file.metadata.items()}
        assert read == METADATA
        assert torch.equal(file.read("weight"), torch.arange(6.0).view(2, 3))
        assert file.tensors["norm"].shape == (4,)


def test_a_file_of_ggml_s_own_writer(tmp_path):
    writer = GGUFWriter(tmp_path / "file", "llama")
    numbers = {"u8": 255, "i8": -128, "u16": 65535, "i16": -(2**15), "u32": 2**32 - 1, "i32": -(2**31)}
    numbers |= {"u64": 2**64 - 1, "i64": -(2**63), "f32": 1e-5, "f64": 1e-300}
    for name, number in numbers.items():
        kind = {"u": "UINT", "i": "INT", "f": "FLOAT"}[name[0]] + name[1:]
        writer.add_key_value(name, number, GGUFValueType[kind])
    writer.add_array("words", ["é", ""])
    writer.add_array("floats", [0.5, 2.0])
    writer.add_tensor("t", np.arange(12, dtype=np.float16).reshape(3, 4))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with GgufFile(tmp_path / "file") as file:
        assert {name: file.metadata[name] for name in numbers} == numbers
        assert list(file.metadata["words"]) == ["é", ""]
        assert file.metadata["floats"].tolist() == [0.5, 2.0]
        assert torch.equal(file.read("t"), torch.arange(12, dtype=torch.float16).view(3, 4))


def test_ggml_s_own_reader_takes_what_the_tests_write(write):
    reader = GGUFReader(write())
    assert {tensor.name: tuple(reversed(tensor.shape.tolist())) for tensor in reader.tensors} == {
        "weight": (2, 3),
        "norm": (4,),
    }


def replaced(old: bytes, new: bytes):
    """Return a change of bytes, whose place is known."""

    def change(content: bytes) -> bytes:
        assert content.count(old) == 1
        return content.replace(old, new)

    return change


def info(name: bytes, *dims: int, type_id: int = 0, offset: int = 0) -> bytes:
    """Return what a header says of a tensor."""
    head = struct.pack("<Q", len(name)) + name + struct.pack("<I", len(dims))
    return head + struct.pack(f"<{len(dims)}QIQ", *dims, type_id, offset)


COUNTS = struct.pack("<QQ", len(PLAIN), len(METADATA))
WEIGHT, NORM = info(b"weight", 3, 2), info(b"norm", 4, offset=32)
LIES = {
    "another file": (lambda content: b"PK34" + content[4:], r"the first bytes b'PK34'; expected b'GGUF'"),
    "nothing": (lambda content: b"", "4 bytes at byte 0; the file has 0"),
    "version 1": (lambda content: content[:4] + b"\1\0\0\0" + content[8:], "version 1; expected 2 or 3"),
    "big endian": (lambda content: content[:4] + b"\0\0\0\3" + content[8:], "a file for big-endian machines"),
    "many tensors": (replaced(COUNTS, struct.pack("<QQ", 2**40, 1)), "1099511627776 tensors and 1 keys"),
    "many keys": (replaced(COUNTS, struct.pack("<QQ", 1, 2**63)), "9223372036854775808 keys"),
    "a key twice": (replaced(b"\1\0\0\0\0\0\0\0b", b"\1\0\0\0\0\0\0\0a"), "the name 'a' twice"),
    "a long key": (replaced(b"\1\0\0\0\0\0\0\0b", b"\xff\xff\xff\xff\xff\xff\xff\x7fb"), "9223372036854775807 bytes"),
    "no such type": (replaced(value(True), struct.pack("<I?", 99, True)), "a value of the type 99"),
    "nested arrays": (replaced(value([1, 2, 3])[:8], struct.pack("<II", 9, 9)), "an array of arrays"),
    "a long array": (replaced(struct.pack("<IIQ", 9, 4, 3), struct.pack("<IIQ", 9, 4, 2**61)), "bytes at byte"),
    "many strings": (replaced(struct.pack("<IIQ", 9, 8, 3), struct.pack("<IIQ", 9, 8, 2**61)), "strings at byte"),
    "no utf-8": (replaced("né".encode(), b"n\xff\xff"), "a string that is no UTF-8"),
    "no dimension": (replaced(NORM, info(b"norm", offset=32) + bytes(8)), "norm of 0 dimension"),
    "nothing in a dimension": (replaced(WEIGHT, info(b"weight", 0, 2)), r"weight of the shape \(2, 0\)"),
    "a product that overflows": (
        replaced(WEIGHT, info(b"weight", 2**62, 4)),
        "weight, F32 .* in 32 bytes",
    ),
    "a place inside another": (replaced(NORM, info(b"norm", 4, offset=0)), "in 0 bytes"),
    "a place beyond the end": (
        replaced(NORM, info(b"norm", 4, offset=2**62)),
        "norm, F32 .* in -",
    ),
    "an odd place": (replaced(NORM, info(b"norm", 4, offset=33)), "norm at byte 33"),
    "part of a block": (
        replaced(WEIGHT, info(b"weight", 3, 2, type_id=8)),
        "3 inputs; expected a multiple of 32",
    ),
    "a tensor twice": (replaced(NORM, info(b"weight", 4, offset=32)[:-2] + bytes(2)), "twice"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_file_that_lies_is_refused(write, lie):
    change, words = LIES[lie]
    path = write(change=change)
    with pytest.raises(CheckpointError, match=f"expected a whole GGUF file, found: .*{words}"):
        GgufFile(path)


@pytest.mark.parametrize("alignment", [0, 3, 2**21, "32"])
def test_an_alignment_that_is_none(write, alignment):
    with pytest.raises(CheckpointError, match=f"general.alignment {alignment!r}; expected a power of two"):
        GgufFile(write({"general.alignment": alignment}))


def test_an_alignment_is_kept(write):
    with GgufFile(write({"general.alignment": 16}, alignment=16)) as file:
        assert file.read("weight")[1, 2] == 5


def test_types_that_are_not_read_are_known_by_name(write):
    with GgufFile(write(tensors={"a": (38, (1,), b""), "b": (11, (1,), b""), "c": (77, (1,), b"")})) as file:
        assert file.unread == {"a": "TL1", "b": "Q3_K", "c": "type 77"}


@pytest.mark.parametrize(("legacy", "block"), [(False, 64), (True, 128)])
@given(sizes=st.lists(st.tuples(st.integers(1, 9), st.sampled_from([2048, 2176])), min_size=1, max_size=4))
def test_the_dialect_of_q2_0_is_told_by_the_places_of_tensors(tmp_path_factory, legacy, block, sizes):
    codes = [np.random.default_rng(place).integers(-1, 2, shape, np.int8) for place, shape in enumerate(sizes)]
    contents = [pack_blocks(one, 0.5, PQ2_0 if legacy else Q2_0) for one in codes]
    tensors = {str(n): (Q2_0, one.shape, content) for n, (one, content) in enumerate(zip(codes, contents, strict=True))}
    path = write_gguf(tmp_path_factory.mktemp("q2_0") / "file", {}, tensors)
    with GgufFile(path) as file:
        assert {tensor.type.block for tensor in file.tensors.values()} == {block}


def test_a_dialect_that_could_be_either_is_refused(write):
    codes = np.ones((1, 128), np.int8)  # 36 or 34 bytes, padded to 64
    with pytest.raises(CheckpointError, match="which could be either by the bytes of a"):
        GgufFile(write(tensors={"a": (Q2_0, codes.shape, pack_blocks(codes, 1.0, Q2_0)), **PLAIN}))
    with pytest.raises(CheckpointError, match="which is neither by the bytes of a"):
        GgufFile(write(tensors={"a": (Q2_0, codes.shape, bytes(20)), **PLAIN}))


def test_a_file_that_is_written_to_meanwhile_is_told(write):
    path = write()
    with GgufFile(path) as file:
        os.truncate(path, path.stat().st_size - 40)
        with pytest.raises(CheckpointError, match="norm: expected a file that stays as it is"):
            file.read("norm")


def test_many_short_words_take_no_more_memory_than_the_file(write):
    path = write({"words": ["ab"] * 200_000})
    tracemalloc.start()
    try:
        GgufFile(path).close()
        assert tracemalloc.get_traced_memory()[1] < 2 * path.stat().st_size + 2**21
    finally:
        tracemalloc.stop()


@given(data=st.data())
def test_damaged_headers_are_refused_or_read(tmp_path_factory, data):
    path = write_gguf(tmp_path_factory.mktemp("damaged") / "file", METADATA, PLAIN)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 65))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with contextlib.suppress(CheckpointError), GgufFile(path) as file:
        for name, tensor in file.tensors.items():
            if tensor.type.dtype is not None:
                assert file.read(name).shape == tensor.shape
