"""Files that are whole or not there, whoever is killed or writes at the same time."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

UNFINISHED = re.compile(r"\..+\.[0-9a-f]{32}\.tmp")  # the name of a file that is still being written


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
    temporary = file.with_name(f".{file.name}.{uuid4().hex}.tmp")
    temporary.touch(exist_ok=False)
    mode = temporary.stat().st_mode
    try:
        yield temporary
        temporary.chmod(mode)  # safetensors makes a file anew, for its owner alone
        os.replace(temporary, file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def unfinished(folder: Path) -> list[Path]:
    """What `beside` has begun in that folder and not ended; who was writing it may have been killed."""
    return [file for file in folder.iterdir() if UNFINISHED.fullmatch(file.name)]
