"""Compiled kernels on disk: a damaged, exchanged or planted file is a miss that the log tells of, and never runs."""

import hashlib
import json
import logging
import os
import pickle
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import types

from bitnet_jit.kernels.numba.compiler import jit, object_cache
from bitnet_jit.kernels.numba.compiler.object_cache import MAGIC, ObjectCache, ObjectCode, decode, encode, file_name
from bitnet_jit.kernels.numba.rowwise import dequantize
from bitnet_jit.system.private_folder import PrivateFolder

MUTATIONS = 5000
KEYS = [["bitnet_jit.kernels.numba.linear.launch.run", f"signature {index}", "target", "sources"] for index in range(3)]
CODES = [ObjectCode(f"entry{index}", f"environment{index}", bytes(range(256)) * 40) for index in range(3)]


@pytest.fixture
def cache(tmp_path):
    kernels = ObjectCache(PrivateFolder(tmp_path / "cache"))
    for key, code in zip(KEYS, CODES, strict=True):
        kernels.store(key, code)
    return kernels


def test_what_is_stored_is_found(cache):
    assert [cache.find(key) for key in KEYS] == CODES
    assert cache.find(["bitnet_jit.kernels.numba.linear.launch.run", "another", "", ""]) is None


def mutations(content: bytes, other: bytes, rng: np.random.Generator):
    """Return contents that are not the file's: single flips anywhere, cuts, additions, holes, and another file's."""
    kind, place = rng.integers(6), int(rng.integers(len(content)))
    if kind < 2:
        flipped = bytearray(content)
        flipped[place] ^= 1 << int(rng.integers(8))
        return bytes(flipped)
    if kind == 2:
        return content[:place]
    if kind == 3:
        return content + rng.bytes(1 + place % 9)
    if kind == 4:
        size = min(1 + place % 512, len(content) - place)
        hole = content[:place] + bytes(size) + content[place + size :]
        return hole if hole != content else b""
    return other


def test_thousands_of_damaged_and_exchanged_files_are_misses(cache, tmp_path, caplog):
    rng = np.random.default_rng(1)
    paths = [tmp_path / "cache" / file_name(key) for key in KEYS]
    contents = [path.read_bytes() for path in paths]
    for turn in range(MUTATIONS):
        which = turn % len(paths)
        paths[which].write_bytes(mutations(contents[which], contents[which - 1], rng))
        caplog.clear()
        assert cache.find(KEYS[which]) is None
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        assert str(paths[which]) in record.getMessage()
        paths[which].write_bytes(contents[which])
    assert [cache.find(key) for key in KEYS] == CODES


@settings(max_examples=50)
@given(content=st.binary(max_size=300), whole=st.booleans())
def test_any_content_is_refused_in_words(content, whole):
    """Refuse contents even where somebody who can write our files has made the digest fit."""
    file = MAGIC + hashlib.sha256(content).digest() + content if whole else content
    with pytest.raises((ValueError, KeyError)):
        decode(file, KEYS[0])


@pytest.mark.parametrize("header", ["[]", "{}", "null", "[" * 100_000, '{"key": 1}', "[1, 2]", "[1, 2, 3]"])
def test_a_header_of_another_form_is_a_miss(cache, tmp_path, header):
    body = header.encode() + b"\ncode"
    (tmp_path / "cache" / file_name(KEYS[0])).write_bytes(MAGIC + hashlib.sha256(body).digest() + body)
    assert cache.find(KEYS[0]) is None


def test_another_key_with_the_same_name_is_a_miss(cache, tmp_path):
    other = [*KEYS[0][:3], "other sources"]
    (tmp_path / "cache" / file_name(KEYS[0])).write_bytes(encode(other, CODES[0]))
    assert cache.find(KEYS[0]) is None


def test_a_pickle_is_never_read(cache, tmp_path):
    class Planted:
        def __reduce__(self):
            return Path(tmp_path / "RAN").touch, ()

    (tmp_path / "cache" / file_name(KEYS[0])).write_bytes(pickle.dumps(Planted()))
    assert cache.find(KEYS[0]) is None
    assert not (tmp_path / "RAN").exists()


@pytest.mark.parametrize("of", ["folder", "file"])
def test_what_others_may_write_is_compiled_anew(cache, tmp_path, caplog, of):
    path = tmp_path / "cache"
    (path if of == "folder" else path / file_name(KEYS[0])).chmod(0o777)
    assert cache.find(KEYS[0]) is None
    assert "others may write to it" in caplog.text


def test_a_folder_that_cannot_be_written_is_said_once(tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    cache = ObjectCache(PrivateFolder(tmp_path / "file" / "cache"))
    for key, code in zip(KEYS, CODES, strict=True):
        assert cache.find(key) is None
        cache.store(key, code)
    assert len(caplog.records) == 1
    assert "they are compiled anew next time" in caplog.text


def test_a_user_without_a_home_has_no_cache_and_is_told_so(monkeypatch, caplog):
    def refuse(name):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(object_cache.platformdirs, "user_cache_path", refuse)
    monkeypatch.setattr(object_cache.numba.config, "CACHE_DIR", "")
    cache = object_cache.user_cache.__wrapped__()
    cache.store(KEYS[0], CODES[0])
    assert cache.find(KEYS[0]) is None
    assert "set NUMBA_CACHE_DIR" in caplog.text


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    """Return a call of a real kernel, whose code is kept in a folder of its own, and that folder."""
    cache = ObjectCache(PrivateFolder(tmp_path / "cache"))
    monkeypatch.setattr(jit, "user_cache", lambda: cache)
    spec = jit.StaticType(dequantize.ActivationSpec("float32"))

    def run() -> list[list[float]]:
        entry = jit.JitKernel(dequantize.run._function).entry(spec, *dequantize.SIGNATURE)
        codes, scale = np.array([[1, -2], [3, 4]], np.int8), np.array([0.5, 2.0], np.float32)
        x, workspace = np.full((2, 2), np.nan, np.float32), np.zeros(1 << 16, np.uint8)
        entry(None, 0, 1, codes.ctypes.data, scale.ctypes.data, x.ctypes.data, 2, 2, workspace.ctypes.data)
        return x.tolist()

    return run, tmp_path / "cache"


def test_code_from_the_disk_computes_what_compiled_code_does(kernel, monkeypatch):
    run, folder = kernel
    assert run() == [[0.5, -1.0], [6.0, 8.0]]
    assert len(list(folder.iterdir())) == 1

    def refuse(*_):
        raise AssertionError("it was compiled")

    monkeypatch.setattr(jit, "only_outermost", refuse)
    assert run() == [[0.5, -1.0], [6.0, 8.0]]


def test_a_damaged_file_is_compiled_anew_and_replaced(kernel):
    run, folder = kernel
    run()
    (file,) = folder.iterdir()
    good = file.read_bytes()
    file.write_bytes(good[:-1] + b"?")
    assert run() == [[0.5, -1.0], [6.0, 8.0]]
    assert decode(file.read_bytes(), json.loads(good[len(MAGIC) + 32 :].split(b"\n")[0])[0])


def test_code_that_needs_objects_of_python_is_not_kept(kernel, monkeypatch):
    run, folder = kernel
    monkeypatch.setattr(jit, "extract", lambda result: None)
    run()
    assert not folder.exists()


def test_constants_of_python_are_seen(monkeypatch):
    """They live in a kernel's environment, which only a pickle could bring back."""
    kernel = jit.JitKernel(dequantize.run._function)
    signature = (jit.StaticType(dequantize.ActivationSpec("float16")), *dequantize.SIGNATURE)
    kernel._dispatcher.compile(signature)
    result = kernel._dispatcher.overloads[signature]
    assert object_cache.extract(result) is not None
    monkeypatch.setattr(object_cache, "lookup_environment", lambda name: SimpleNamespace(consts=["a constant"]))
    assert object_cache.extract(result) is None


def raise_at_zero(number):
    if number == 0:
        raise ValueError("zero")
    return number


def allocate(number):
    return np.zeros(number, np.float32)[0]


def count(number):
    return number + 1


@pytest.mark.parametrize(("function", "kept"), [(raise_at_zero, False), (allocate, False), (count, True)])
def test_code_that_may_raise_or_allocate_is_not_kept(tmp_path, monkeypatch, caplog, function, kept):
    """It calls Numba's runtime, which a process that loads it need not have."""
    monkeypatch.setattr(jit, "user_cache", lambda: ObjectCache(PrivateFolder(tmp_path / "cache")))
    caplog.set_level(logging.DEBUG, object_cache.logger.name)
    expected = function(3)
    for _ in range(2):  # the second one finds what the first one kept
        assert jit.JitKernel(function).entry(types.int64)(3) == expected
    assert (tmp_path / "cache").exists() == kept
    assert ("numba_do_raise" in caplog.text) != kept


def test_numba_disable_jit_is_a_refusal_in_words():
    code = (
        "from bitnet_jit.kernels import registry\n"
        "print(registry.unsupported_reason('numba', 'cpu'))\n"
        "import numba\n"
        "registry.absent_reason.cache_clear()\n"
        "numba.config.DISABLE_JIT = 0\n"
        "print(registry.unsupported_reason('numba', 'cpu'))\n"
    )
    environ = os.environ | {"NUMBA_DISABLE_JIT": "1"}
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environ, check=True)
    first, second = child.stdout.splitlines()
    assert "NUMBA_DISABLE_JIT is set" in first
    assert second == "None"


@pytest.fixture
def package(tmp_path):
    """Return a copy of the sources of which compiled kernels are made."""
    original = Path(object_cache.problem.__file__).parent
    for pattern in object_cache.SOURCES:
        for file in original.glob(pattern):
            copy = tmp_path / file.relative_to(original)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())
    assert object_cache.hash_sources(tmp_path) == object_cache.source_hash()
    return tmp_path


@pytest.mark.parametrize("name", ["kernels/numba/linear/tile.py", "kernels/numba/layout.py", "problem.py"])
def test_an_edit_of_a_source_changes_the_hash(package, name):
    before = object_cache.hash_sources(package)
    (package / name).write_text((package / name).read_text() + "\n")
    assert object_cache.hash_sources(package) != before


@pytest.mark.parametrize("name", ["kernels/numba/new.py", "kernels/numba/linear/new.py", "kernels/numba/new/new.py"])
def test_a_new_source_changes_the_hash(package, name):
    before = object_cache.hash_sources(package)
    (package / name).parent.mkdir(exist_ok=True)
    (package / name).write_text("")
    assert object_cache.hash_sources(package) != before


def test_another_name_of_a_source_changes_the_hash(package):
    before = object_cache.hash_sources(package)
    (package / "kernels/numba/linear/tile.py").rename(package / "kernels/numba/linear/other.py")
    assert object_cache.hash_sources(package) != before
