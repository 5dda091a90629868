"""tokenizer.json: damage of every kind, and errors of the library."""

import copy
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizer_files import KINDS, SPECIAL, byte_level

from bitnet_jit.errors import CheckpointError
from bitnet_jit.generation import tokenizer_file
from bitnet_jit.generation.tokenizer import FileTokenizer, find_tokenizer


class PanicException(BaseException):
    """An exception as the bindings of Rust raise it."""


PanicException.__module__ = "pyo3_runtime"


@pytest.mark.parametrize(
    "error", [Exception("plain"), PanicException("index out of bounds"), MemoryError(), KeyError("x")]
)
def test_whatever_the_library_raises_is_told_in_words(write, monkeypatch, error):
    import tokenizers

    tokenizer = write(byte_level())

    class Failing:
        def id_to_token(self, number):
            return "a"

        def encode(self, *arguments, **options):
            raise error

        decode = from_buffer = encode

    monkeypatch.setattr(tokenizer, "_library", Failing())
    for call in (lambda: tokenizer.encode("a"), lambda: tokenizer.decode([1]), lambda: tokenizer.stream([1])):
        with pytest.raises(CheckpointError, match=r"tokenizer\.json: makes no t"):
            call()
    monkeypatch.setattr(tokenizers, "Tokenizer", Failing())
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: expected a tokenizer of the tokenizers library"):
        write(byte_level())


def test_control_c_within_the_library_is_no_error_of_the_file(write, monkeypatch):
    tokenizer = write(byte_level())

    class Interrupted:
        def encode(self, text):
            raise KeyboardInterrupt

    monkeypatch.setattr(tokenizer, "_library", Interrupted())
    with pytest.raises(KeyboardInterrupt):
        tokenizer.encode("a")


def test_files_that_are_none(tmp_path, monkeypatch):
    file = tmp_path / "tokenizer.json"
    file.mkdir()
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: expected a file, found none"):
        find_tokenizer(tmp_path, 256)
    file.rmdir()
    file.symlink_to("nowhere")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: expected a file, found none"):
        find_tokenizer(tmp_path, 256)
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: expected a file, found none"):
        find_tokenizer(tmp_path, 256)
    file.unlink()
    with file.open("wb") as sparse:
        sparse.truncate(2**40)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: expected at most \d+ bytes, found 1099511627776"):
        find_tokenizer(tmp_path, 256)
    file.write_bytes(b"{}")
    monkeypatch.setattr(
        Path, "read_bytes", lambda path: (_ for _ in ()).throw(PermissionError(13, "Permission denied"))
    )
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: cannot be read \(Permission denied\)"):
        find_tokenizer(tmp_path, 256)


JUNK = st.sampled_from(
    [None, -1, 0, 2**31, 2**32, 2**64, 10**30, 1e400, 0.5, "", "\0", "zz", [], {}, [[]], [None], True, {"a": 1}]
)
CONTENTS = [json.loads(kind().to_str()) for kind in KINDS]


def places(content, here=()):
    """Yield the paths of the values of a JSON text."""
    if here:
        yield here
    if isinstance(content, (dict, list)):
        for key in list(content if isinstance(content, dict) else range(len(content)))[:12]:
            yield from places(content[key], (*here, key))


def use(path) -> str:
    """Do everything with a tokenizer; return the reason of a refusal, or nothing."""
    try:
        tokenizer = FileTokenizer(path)
        tokens = tokenizer.encode("hello the </s> world é🙂")
        stream = tokenizer.stream(tokens)
        for token in [*tokens, 0, 1, 2, 300, 2**31]:
            stream.push(token)
        stream.finish()
    except CheckpointError as error:
        return str(error)
    return ""


@given(data=st.data())
def test_damaged_and_lying_files_are_refused_or_work(tmp_path_factory, data):
    content = copy.deepcopy(data.draw(st.sampled_from(CONTENTS)))
    for _ in range(data.draw(st.integers(1, 2))):
        *above, last = data.draw(st.sampled_from(list(places(content))))
        holder = content
        for key in above:
            holder = holder[key]
        if data.draw(st.booleans()):
            holder[last] = copy.deepcopy(data.draw(JUNK))  # which the next damage may change
        else:
            del holder[last]
    path = tmp_path_factory.mktemp("damaged") / "tokenizer.json"
    path.write_text(json.dumps(content))
    refusal = use(path)
    assert not refusal or str(path) in refusal


@given(data=st.data())
def test_files_that_are_cut_or_overwritten_are_refused_or_work(tmp_path_factory, data):
    content = bytearray(json.dumps(data.draw(st.sampled_from(CONTENTS))).encode())
    start = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        del content[start:]
    else:
        content[start : start + 8] = data.draw(st.binary(max_size=8))
    path = tmp_path_factory.mktemp("cut") / "tokenizer.json"
    path.write_bytes(content)
    refusal = use(path)
    assert not refusal or str(path) in refusal


def test_deeply_nested_files_are_refused(write):
    with pytest.raises(CheckpointError, match="expected a tokenizer"):
        write(b"[" * 10**6)
    with pytest.raises(CheckpointError, match="expected a tokenizer"):
        write(b'{"model":' * 10**5)


def test_the_limit_is_far_above_known_files():
    assert tokenizer_file.MAX_FILE > 5 * 40e6
    assert len(SPECIAL) == 4
