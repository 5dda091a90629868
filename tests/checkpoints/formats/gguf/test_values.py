"""Strings of the metadata, wherever the window of the file that is held ends."""

import struct
from array import array
from itertools import accumulate

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bitnet_jit.checkpoints.formats.gguf import values
from bitnet_jit.checkpoints.formats.gguf.keys import Keys
from bitnet_jit.checkpoints.formats.gguf.values import ARRAY, STRING, Cursor, Strings
from bitnet_jit.errors import CheckpointError
from bitnet_jit.system.stable_file import StableFile


def array_of(words: list[str]) -> bytes:
    """Return an array of strings as a file has it."""
    encoded = [word.encode() for word in words]
    parts = (struct.pack("<Q", len(word)) + word for word in encoded)
    return struct.pack("<IIQ", ARRAY, STRING, len(words)) + b"".join(parts)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(words=st.lists(st.text(max_size=12), max_size=20), window=st.integers(1, 200))
def test_strings_over_the_end_of_a_window(tmp_path, words, window):
    (tmp_path / "file").write_bytes(array_of(words) + struct.pack("<IB", 0, 77))
    with pytest.MonkeyPatch.context() as patch, StableFile(tmp_path / "file") as file:
        patch.setattr(values, "WINDOW", window)
        cursor = Cursor(file)
        strings = cursor.value()
        assert list(strings) == strings[:] == words
        assert cursor.value() == 77, "the next value begins behind the last string"


@pytest.mark.parametrize("cut", [1, 5, 9, 14])
def test_strings_that_end_before_their_count(tmp_path, cut):
    content = array_of(["ab", "cde", "f"])
    (tmp_path / "file").write_bytes(content[:-cut])
    with StableFile(tmp_path / "file") as file, pytest.raises(ValueError, match="the file has"):
        Cursor(file).value()


@pytest.mark.parametrize("place", range(9))
def test_a_string_that_is_no_utf_8_is_named_wherever_it_stands(place):
    words = [b"a%d" % number for number in range(9)]
    words[place] = b"\x8f" + words[place]
    strings = Strings(b"".join(words), array("q", accumulate(map(len, words))))
    with pytest.raises(
        CheckpointError, match=r"file: tokens: expected strings of UTF-8 .*a string that is no UTF-8: b'"
    ):
        Keys({"tokens": strings}, "file").strings("tokens")
    assert all(text.isascii() for text in strings.first(20))
