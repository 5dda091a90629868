"""A private folder reads files that its user has written, and no others."""

import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from bitnet_jit.system.private_folder import PrivateFolder

pytestmark = pytest.mark.skipif(os.name != "posix", reason="Windows has no modes and owners of this kind")
OTHER = 65534  # "nobody"
as_root = pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can give files away")


@pytest.fixture
def folder(tmp_path):
    private = PrivateFolder(tmp_path / "one" / "two")
    private.write("file", b"content")
    return private


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_modes_are_private_whatever_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        folder = PrivateFolder(tmp_path / "folder")
        folder.write("file", b"content")
    finally:
        os.umask(before)
    assert (mode(folder.path), mode(folder.path / "file")) == (0o700, 0o600)
    assert folder.read("file") == b"content"


def test_a_file_that_is_not_there(folder, tmp_path):
    with pytest.raises(FileNotFoundError):
        folder.read("other")
    with pytest.raises(FileNotFoundError):
        PrivateFolder(tmp_path / "nowhere").read("file")


@pytest.mark.parametrize("of", ["folder", "file"])
@pytest.mark.parametrize("wrong", [0o720, 0o702, 0o777])
def test_a_file_that_others_may_write_is_refused_in_words(folder, of, wrong):
    path = folder.path if of == "folder" else folder.path / "file"
    path.chmod(wrong)
    with pytest.raises(PermissionError, match=rf"others may write to it \(mode 0{wrong:o}\); remove it"):
        folder.read("file")


def test_nothing_is_written_into_a_folder_that_others_may_write(folder):
    folder.path.chmod(0o777)
    with pytest.raises(PermissionError, match="others may write"):
        folder.write("file", b"other")
    assert [path.name for path in folder.path.iterdir()] == ["file"]
    assert (folder.path / "file").read_bytes() == b"content"


@as_root
@pytest.mark.parametrize("of", ["folder", "file"])
def test_a_file_of_another_user_is_refused_in_words(folder, of):
    os.chown(folder.path if of == "folder" else folder.path / "file", OTHER, OTHER)
    with pytest.raises(PermissionError, match=f"belongs to user {OTHER}, and only files of user 0"):
        folder.read("file")


@as_root
def test_files_of_root_are_read_by_others():
    """Read files of root, for a container's image may bring compiled kernels."""
    with tempfile.TemporaryDirectory() as base:  # others cannot enter pytest's folders
        os.chmod(base, 0o755)
        read_as_other(PrivateFolder(Path(base) / "folder"))


def read_as_other(folder):
    folder.write("file", b"content")
    folder.path.chmod(0o755)
    (folder.path / "file").chmod(0o644)
    source = Path(__file__).parents[2] / "bitnet_jit" / "system/private_folder.py"
    code = (
        f"import os; source = {source.read_text()!r}; exec(source); os.setgid({OTHER}); os.setuid({OTHER})\n"
        f"folder = PrivateFolder(Path({str(folder.path)!r})); print(folder.read('file'))\n"
        "try: folder.write('file', b'')\n"
        "except PermissionError as error: print(error.strerror)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == ["b'content'", "Permission denied"]


@pytest.mark.parametrize("kind", ["link", "folder", "fifo", "dangling"])
def test_pipes_and_folders_are_refused(folder, kind):
    path = folder.path / kind
    make = {
        "link": lambda: path.symlink_to(folder.path / "file"),
        "dangling": lambda: path.symlink_to("nowhere"),
        "folder": path.mkdir,
        "fifo": lambda: os.mkfifo(path, 0o600),
    }
    make[kind]()
    with pytest.raises(OSError, match=r"regular file|symbolic links|directory"):
        folder.read(kind)


def test_a_link_in_place_of_the_folder_is_refused(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder.path)
    with pytest.raises(OSError):  # noqa: PT011  ELOOP or ENOTDIR, as the system has it
        PrivateFolder(tmp_path / "link").read("file")


def test_a_write_that_fails_leaves_nothing_and_the_old_file(folder, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        folder.write("file", b"other")
    assert [path.name for path in folder.path.iterdir()] == ["file"]
    assert folder.read("file") == b"content"
