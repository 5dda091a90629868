"""Files that are whole or not there, even if a writer is killed or several write at the same time."""

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

UNFINISHED = re.compile(r"\..+\.[0-9a-f]{32}\.tmp")  # the name of a file that is still being written
MAX_NAME = 50  # characters of the name that a temporary file keeps: a long name must not grow too long
DESCRIPTOR = re.compile(r"/dev/(stdout|stderr|fd/(\d{1,9}))|/proc/self/fd/(\d{1,9})")
STANDARD = {"stdout": 1, "stderr": 2}


def write_beside_and_rename(file: Path, content: bytes, follow_links: bool = True) -> None:
    """Write a file so that a reader sees the old one or the whole new one, never a part; see `beside`."""
    with beside(file, follow_links) as temporary:
        temporary.write_bytes(content)


@contextmanager
def beside(file: Path, follow_links: bool = True) -> Iterator[Path]:
    """Give an empty file in the same folder, to be written within the block; then it takes the other's place.

    Where the block fails, the old file stays and the new one goes. The folder is created if need be. A link stays, and
    the file that it points to is replaced.

    Args:
        file: the path to replace: a regular file, or nothing yet.
        follow_links: whether to replace the target of a link; False replaces the link, which others could have laid.

    Raises:
        OSError: the file cannot be written, or is a directory, a pipe or a device.
    """
    file = target_of(file) if follow_links else file
    check_replaceable(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name[:MAX_NAME]}.{uuid4().hex}.tmp")
    temporary.touch(exist_ok=False)
    try:
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)  # safetensors makes a file anew, for its owner alone
        os.replace(temporary, file)
    except BaseException:
        with suppress(OSError):  # the first error is the one to tell
            temporary.unlink(missing_ok=True)
        raise


def write_output(file: Path, content: bytes) -> None:
    """Write a file that a user named: see `beside`; pipes, devices and the standard output take the bytes themselves.

    Raises:
        OSError: it cannot be written.
    """
    if path := DESCRIPTOR.fullmatch(str(file)):
        word, *numbers = path.groups()
        # the descriptor itself: another one of the same file would begin at its first byte
        descriptor = os.dup(STANDARD[word] if word in STANDARD else int(numbers[0] or numbers[1]))
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(content)
    elif is_stream(file):
        with file.open("wb") as opened:
            opened.write(content)
    else:
        write_beside_and_rename(file, content)


def is_stream(file: Path) -> bool:
    """Return whether a path names a pipe, a socket or a device, or a descriptor of this process."""
    if DESCRIPTOR.fullmatch(str(file)):
        return True
    try:
        mode = file.stat().st_mode
    except (OSError, ValueError):
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def target_of(file: Path) -> Path:
    """Return the path that a link points to in the end, or the path itself where it is no link.

    Raises:
        OSError: links lead in a circle, or no file can have such a name.
    """
    try:
        is_link = stat.S_ISLNK(os.lstat(file).st_mode)
    except FileNotFoundError:
        return file
    except ValueError as error:  # a NUL or half a surrogate pair
        raise OSError(errno.EINVAL, "no file can have such a name", str(file)) from error
    if not is_link:
        return file
    with suppress(FileNotFoundError):  # a link to nothing: the write creates its target
        os.stat(file)
    return Path(os.path.realpath(file))


def check_replaceable(file: Path) -> None:
    """Raise OSError where a path names something that no file must replace."""
    try:
        mode = os.lstat(file).st_mode
    except FileNotFoundError:
        return
    except ValueError as error:
        raise OSError(errno.EINVAL, "no file can have such a name", str(file)) from error
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(file))
    if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
        raise OSError(errno.EINVAL, "expected a regular file to write, found a pipe or a device", str(file))


def unfinished(folder: Path) -> list[Path]:
    """Return files that `beside` has begun in a folder and not ended; their writer may have been killed."""
    return [file for file in folder.iterdir() if UNFINISHED.fullmatch(file.name)]
