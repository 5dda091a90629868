"""Files that are whole or not there, whoever is killed or writes at the same time."""

import os
import tempfile
from pathlib import Path

UNFINISHED = ".tmp"  # how the name of a file ends that is still being written; it begins with a dot


def write_beside_and_rename(file: Path, content: bytes) -> None:
    """A reader sees the old file or the whole new one, never a part; the folder is made if need be."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=".", suffix=UNFINISHED)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        os.replace(temporary, file)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
