"""A folder of files that only its user, or root, can have written: for files that are trusted when read, such as code.

A file is read only if it and its folder belong to the user or to root and nobody else may write to them. Folder and
file are opened first and checked afterwards, by their descriptors, so that neither can be exchanged in between. Folders
are created with mode 0700 and files with mode 0600, whatever the umask. Windows has no such modes: there the
protection is that of the user's profile.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

POSIX = os.name == "posix"
MAX_BYTES = 1 << 28  # per file: far more than any compiled kernel has
WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
FOLDER_FLAGS = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
FILE_FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)  # a FIFO would wait for a writer
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
)
NEW_FILE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


class PrivateFolder:
    """A folder that need not exist yet; it is created when a file is written.

    Args:
        path: its path.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as base:
    ...     folder = PrivateFolder(Path(base) / "private")
    ...     folder.write("file", b"content")
    ...     folder.read("file"), oct((folder.path / "file").stat().st_mode & 0o777)
    (b'content', '0o600')
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, name: str) -> bytes:
        """Return the whole of a file.

        Raises:
            FileNotFoundError: there is no such file.
            PermissionError: the file or the folder is another user's, or others may write to it.
            OSError: it cannot be read, or is no regular file of at most MAX_BYTES.
        """
        with self._opened() as folder, open(self._open(name, FILE_FLAGS, folder), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_BYTES:
                raise OSError(f"{self.path / name}: expected a regular file of at most {MAX_BYTES} bytes")
            check_private(status, self.path / name)
            return file.read(MAX_BYTES)

    def write(self, name: str, content: bytes) -> None:
        """Write a file beside its place and rename it, so that a reader sees the old one or the whole new one.

        Raises:
            PermissionError: the folder is another user's, or others may write to it.
            OSError: it cannot be written.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.mkdir(mode=0o700, exist_ok=True)
        temporary = f".{name}.{uuid4().hex}.tmp"
        with self._opened() as folder:
            places = {"src_dir_fd": folder, "dst_dir_fd": folder} if folder is not None else {}
            try:
                with open(self._open(temporary, NEW_FILE_FLAGS, folder), "wb") as file:
                    file.write(content)
                os.replace(self._place(temporary, folder), self._place(name, folder), **places)
            except BaseException:
                self._unlink(temporary, folder)
                raise

    @contextmanager
    def _opened(self) -> Iterator[int | None]:
        """Open and check the folder: its descriptor; None where there are no descriptors of folders."""
        if not POSIX:
            yield None
            return
        folder = os.open(self.path, FOLDER_FLAGS)
        try:
            check_private(os.fstat(folder), self.path)
            yield folder
        finally:
            os.close(folder)

    def _place(self, name: str, folder: int | None) -> str | Path:
        return name if folder is not None else self.path / name

    def _open(self, name: str, flags: int, folder: int | None) -> int:
        return os.open(self._place(name, folder), flags, 0o600, dir_fd=folder)

    def _unlink(self, name: str, folder: int | None) -> None:
        try:
            os.unlink(self._place(name, folder), dir_fd=folder)
        except FileNotFoundError:  # it was renamed, or never created
            return


def check_private(status: os.stat_result, path: Path) -> None:
    """Raise PermissionError unless this user or root alone can have written it."""
    if not POSIX:
        return
    user = os.geteuid()
    if status.st_uid not in (user, 0):
        raise PermissionError(
            f"{path}: belongs to user {status.st_uid}, and only files of user {user} or root are trusted"
        )
    if status.st_mode & WRITABLE_BY_OTHERS:
        mode = stat.S_IMODE(status.st_mode)
        raise PermissionError(f"{path}: others may write to it (mode {mode:04o}); remove it, and it is created anew")
