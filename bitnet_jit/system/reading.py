"""Files of unknown origin, read safely: regular files only, up to a limit; JSON that every tool can read.

Here a failure is an OSError (the place) or a ValueError (the content); callers turn both into errors of the package.
"""

import errno
import json
import math
import os
import re
import stat
from pathlib import Path
from typing import Any

MARK = b"\xef\xbb\xbf"  # the byte order mark, with which some editors begin a file in UTF-8
CHUNK = 2**20  # bytes per read
WAIT_FREE = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)
KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
DESCRIPTOR = re.compile(r"/dev/(stdin|fd/\d+)|/proc/self/fd/\d+")  # such as those of a shell's <(command)


def open_regular(path: Path, pipes: bool = False) -> int:
    """Open a regular file for reading, without waiting for anybody.

    Args:
        path: the file.
        pipes: whether to take a pipe where the path names a descriptor of this process, as a shell's <(command) does.

    Returns:
        A descriptor, to be closed by the caller.

    Raises:
        OSError: the file cannot be opened or is not regular; `strerror` says what it is.
    """
    allowed = pipes and DESCRIPTOR.fullmatch(str(path)) is not None
    try:
        check_regular(path, os.stat(path).st_mode, allowed)  # to open some devices already has an effect
        descriptor = os.open(path, os.O_RDONLY | WAIT_FREE)
    except ValueError as error:  # a NUL or half a surrogate pair
        raise OSError(errno.EINVAL, "no file can have such a name", str(path)) from error
    try:
        check_regular(path, os.fstat(descriptor).st_mode, allowed)
        if allowed:
            os.set_blocking(descriptor, True)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def check_regular(path: Path, mode: int, pipes: bool) -> None:
    """Raise OSError unless a mode is that of a regular file, or of a pipe where pipes are allowed."""
    if not (stat.S_ISREG(mode) or (pipes and stat.S_ISFIFO(mode))):
        kind = next((words for test, words in KINDS if test(mode)), "something else")
        raise OSError(errno.EINVAL, f"expected a regular file, found {kind}", str(path))


def read_file(path: Path, limit: int, pipes: bool = False) -> bytearray:
    """Read a whole file of at most `limit` bytes.

    Args:
        path: the file.
        limit: the most bytes to read; no more than that are ever held.
        pipes: see `open_regular`.

    Raises:
        OSError: it cannot be read, is not regular, or is larger.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile() as file:
    ...     _ = Path(file.name).write_bytes(b"abc")
    ...     read_file(Path(file.name), limit=3)
    bytearray(b'abc')
    """
    descriptor = open_regular(path, pipes)
    try:
        content, size = bytearray(), os.fstat(descriptor).st_size
        while len(content) <= limit and size <= limit:
            if not (chunk := os.read(descriptor, CHUNK)):
                return content
            content += chunk
    finally:
        os.close(descriptor)
    raise OSError(errno.EFBIG, f"expected at most {limit} bytes, found {max(size, len(content))} or more", str(path))


def read_json(path: Path, limit: int, allow_nan: bool = False) -> Any:
    """Read a JSON file of at most `limit` bytes; see `parse_json`.

    Raises:
        OSError: it cannot be read, is not regular, or is larger.
        ValueError: it is not JSON.
    """
    return parse_json(read_file(path, limit), allow_nan)


def parse_json(content: bytes | bytearray | str, allow_nan: bool = False) -> Any:
    """Return the value of a JSON text in UTF-8, in which every name is unique and every number finite.

    Args:
        content: the text.
        allow_nan: whether to take NaN and Infinity, which Python's `json` writes; users of a number then have to check.

    Raises:
        ValueError: the text is not UTF-8 or not JSON, is nested too deeply, repeats a name in an object, or holds NaN,
            infinity, a number too long to read, or half a surrogate pair.

    >>> parse_json(b'{"a": [1, 2.5, null]}')
    {'a': [1, 2.5, None]}
    """
    try:
        text = content if isinstance(content, str) else content.removeprefix(MARK).decode()
        if allow_nan:
            value = json.loads(text, object_pairs_hook=unique)
        else:
            value = json.loads(text, object_pairs_hook=unique, parse_constant=no_number, parse_float=finite)
        json.dumps(value, ensure_ascii=False).encode() if "\\u" in text else text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"it holds {error.object[error.start]!r}, half of a surrogate pair") from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    return value


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return pairs as a dictionary, or raise ValueError where a name is there twice."""
    members = dict(pairs)
    if len(members) < len(pairs):
        seen: set[str] = set()
        again = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"an object has the name {again[:80]!r} twice")
    return members


def no_number(word: str) -> float:
    """Raise ValueError for NaN, Infinity and -Infinity, which JSON does not have."""
    raise ValueError(f"{word} is no JSON")


def finite(digits: str) -> float:
    """Return a number as a float, or raise ValueError where it is beyond a float's range."""
    if not math.isfinite(number := float(digits)):
        raise ValueError(f"the number {digits[:40]} is too large")
    return number
