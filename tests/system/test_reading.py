"""Files of unknown origin: whatever lies under a name, reading it ends, and in words."""

import json
import math
import os
import socket
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet_jit.system.reading import open_regular, parse_json, read_file, read_json

UNIX = pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")
NOT_JSON = {
    "nothing": b"",
    "half": b'{"a": 1',
    "more": b"{} {}",
    "deep lists": b"[" * 100_000,
    "deep objects": b'{"a":' * 100_000,
    "deep and closed": b"[" * 100_000 + b"]" * 100_000,
    "no UTF-8": b'{"a": "\xff"}',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "half a surrogate pair": b'{"a": "\\ud800"}',
    "half a surrogate pair as a name": b'{"\\udc00": 1}',
    "the halves in the wrong order": b'["\\udc00\\ud800"]',
    "a name twice": b'{"a": 1, "a": 2}',
    "a name twice inside": b'[{"b": {"a": 1, "a": 1}}]',
    "NaN": b"[NaN]",
    "infinity": b'{"a": -Infinity}',
    "a float beyond floats": b"[1e999]",
    "an integer of many digits": b"[" + b"9" * 5000 + b"]",
    "zeros": bytes(1000),
}


@pytest.mark.parametrize("what", NOT_JSON)
def test_what_is_no_json_is_a_value_error(tmp_path, what):
    (tmp_path / "file").write_bytes(NOT_JSON[what])
    with pytest.raises(ValueError, match=r"\w") as caught:
        read_json(tmp_path / "file", 2**20)
    str(caught.value).encode()  # can be printed
    assert not isinstance(caught.value, UnicodeEncodeError)


@given(
    content=st.binary(max_size=100) | st.text(max_size=50, alphabet='{}[]",:\\ud8019eE-.nulNaIfity ').map(str.encode)
)
def test_any_bytes_are_a_value_or_a_value_error(content):
    try:
        value = parse_json(content)
    except ValueError:
        return
    assert parse_json(json.dumps(value)) == value


def test_what_is_json_is_read(tmp_path):
    value = {"a": [1, -2.5, 1e300, None, True], "é\U0001f600": {"b": {}}, "": 2**200}
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False), "\ufeff" + json.dumps(value)):
        (tmp_path / "file").write_text(text, "utf-8")
        assert read_json(tmp_path / "file", 2**10) == value
    assert math.isnan(parse_json("[NaN, Infinity]", allow_nan=True)[0])


def test_a_limit_is_a_limit(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"a" * 100)
    assert read_file(file, 100) == b"a" * 100
    with pytest.raises(OSError, match="expected at most 99 bytes, found 100 or more"):
        read_file(file, 99)
    os.truncate(file, 2**43)  # 8 TiB of holes
    with pytest.raises(OSError, match="found 8796093022208 or more"):
        read_file(file, 2**20)


@UNIX
def test_what_is_no_regular_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("/dev/zero")
    (tmp_path / "nothing").symlink_to("absent")
    (tmp_path / "circle").symlink_to("circle")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "socket"))
    names = {"pipe": "a pipe", "folder": "a directory", "link": "a device", "socket": "a socket"}
    for name, words in {**names, "nothing": "No such file", "circle": "symbolic link", "a\0b": "such a name"}.items():
        with pytest.raises(OSError, match=words):
            open_regular(tmp_path / name)
    for name in ("\ud800", "n" * 300, "folder/" * 1000):
        with pytest.raises(OSError, match=r"\w"):
            read_file(tmp_path / name, 10)


PIPED = """
import pathlib, sys
from bitnet_jit.system.reading import read_file
path = pathlib.Path(sys.argv[1])
print(bytes(read_file(path, 10**6, pipes=True))[:3])
try:
    read_file(path, 9)
except OSError as error:
    print(error.strerror)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="this system has no /proc")
def test_a_pipe_is_read_where_it_is_a_descriptor_of_ours_and_asked_for():
    for path in ("/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"):
        command = [sys.executable, "-c", PIPED, path]
        found = subprocess.run(command, input=b"abc" * 50_000, capture_output=True, check=True)
        assert found.stdout.decode().splitlines() == ["b'abc'", "expected a regular file, found a pipe"]
