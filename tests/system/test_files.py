"""Writing: whole or not at all, links stay, and pipes and devices are not replaced by files."""

import errno
import os
import stat
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from bitnet_jit.system.files import beside, unfinished, write_beside_and_rename, write_output

UNIX = pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")


NULL, FULL = 3, 7  # minor numbers of Linux's devices


def device(folder, name, minor):
    """Return a device of that number in a folder of ours, so that faults harm no device of root; else the system's."""
    with suppress(OSError):  # only root may, and not in every sandbox
        os.mknod(folder / name, stat.S_IFCHR | 0o666, os.makedev(1, minor))
        (folder / name).open("wb").close()
        return folder / name
    return Path("/dev") / name


def left(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_made_with_its_folder_and_replaced_as_a_whole(tmp_path):
    file = tmp_path / "a" / "b" / "file"
    for content in (b"one", b"two"):
        write_beside_and_rename(file, content)
        assert (file.read_bytes(), left(file.parent)) == (content, ["file"])


def fails_half_way(file, error):
    with beside(file) as temporary:
        temporary.write_bytes(b"half")
        assert unfinished(file.parent) == [temporary]
        raise error


def test_where_writing_fails_the_old_file_stays_and_nothing_else(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"old")
    for error in (OSError(errno.ENOSPC, "full"), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            fails_half_way(file, error)
        assert (file.read_bytes(), left(tmp_path)) == (b"old", ["file"])


def test_a_name_as_long_as_names_may_be(tmp_path):
    for name in ("n" * 250, "é" * 120):
        write_beside_and_rename(tmp_path / name, b"x")
        assert (tmp_path / name).read_bytes() == b"x"
    with pytest.raises(OSError, match="too long"):
        write_beside_and_rename(tmp_path / ("n" * 256), b"x")


@UNIX
@pytest.mark.parametrize("exists", [True, False])
def test_a_link_stays_and_its_target_is_written(tmp_path, exists):
    target = tmp_path / "elsewhere" / "target"
    target.parent.mkdir()
    if exists:
        target.write_bytes(b"old")
    (tmp_path / "middle").symlink_to("elsewhere/target")
    (tmp_path / "link").symlink_to(tmp_path / "middle")
    for write in (write_beside_and_rename, write_output):
        write(tmp_path / "link", b"new")
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "middle").is_symlink()
        assert (target.read_bytes(), left(target.parent)) == (b"new", ["target"])
        target.unlink()


@UNIX
def test_a_link_that_others_may_have_laid_is_replaced_itself(tmp_path):
    (tmp_path / "mine").write_bytes(b"mine")
    (tmp_path / "link").symlink_to("mine")
    write_beside_and_rename(tmp_path / "link", b"new", follow_links=False)
    assert ((tmp_path / "mine").read_bytes(), (tmp_path / "link").is_symlink()) == (b"mine", False)


@UNIX
def test_pipes_and_folders_are_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "link").symlink_to("pipe")
    null = device(tmp_path, "null", NULL)
    (tmp_path / "device").symlink_to(null)
    for name in ("pipe", "folder", "circle", "link", "device", "a\0b", "\ud800"):
        before = left(tmp_path)
        with pytest.raises(OSError, match=r"\w"):
            write_beside_and_rename(tmp_path / name, b"x")
        assert left(tmp_path) == before
    assert stat.S_ISFIFO(os.stat(tmp_path / "pipe").st_mode)
    assert stat.S_ISCHR(os.stat(null).st_mode)


@UNIX
def test_an_output_may_be_a_pipe_or_a_device(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    got = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    write_output(tmp_path / "pipe", b"content")
    reader.join(10)
    assert got == [b"content"]
    assert stat.S_ISFIFO(os.stat(tmp_path / "pipe").st_mode)
    null = device(tmp_path, "null", NULL)
    (tmp_path / "link").symlink_to(null)
    for path in (tmp_path / "link", null):
        write_output(path, b"content")
    assert stat.S_ISCHR(os.stat(null).st_mode)
    assert (tmp_path / "link").is_symlink()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no device that is always full")
def test_a_full_device_is_an_error_and_stays_a_device(tmp_path):
    full = device(tmp_path, "full", FULL)
    with pytest.raises(OSError, match="No space left"):
        write_output(full, b"content")
    assert stat.S_ISCHR(os.stat(full).st_mode)


@pytest.mark.skipif(not os.path.exists("/dev/stdout"), reason="this system has no such name")
@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_the_standard_output_is_written_to_where_it_stands(tmp_path, name):
    code = "from bitnet_jit.system.files import write_output; from pathlib import Path\n"
    code += f"print('before', flush=True); write_output(Path({name!r}), b'content\\n'); print('after')"
    piped = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    with (tmp_path / "file").open("w") as file:
        subprocess.run([sys.executable, "-c", code], stdout=file, check=True)
    assert piped.stdout == (tmp_path / "file").read_text() == "before\ncontent\nafter\n"
    assert left(tmp_path) == ["file"]
