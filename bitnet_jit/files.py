"""Files that are whole or not there, whoever is killed or writes at the same time."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

UNFINISHED = ".tmp"  # how the name of a file ends that is still being written; it begins with a dot


def write_beside_and_rename(file: Path, content: bytes) -> None:
    """A reader sees the old file or the whole new one, never a part; the folder is made if need be."""
    with beside(file) as temporary:
        temporary.write_bytes(content)


@contextmanager
def beside(file: Path) -> Iterator[Path]:
    """An empty file in the same folder, to be written within the block; then it takes the other's place.

    Where the block fails, the old file stays and the new one goes. The folder is made if need be.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{uuid4().hex}{UNFINISHED}")
    temporary.touch(exist_ok=False)
    mode = temporary.stat().st_mode
    try:
        yield temporary
        temporary.chmod(mode)  # safetensors makes a file anew, for its owner alone
        os.replace(temporary, file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
