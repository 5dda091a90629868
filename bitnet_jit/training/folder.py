"""The folder that a training writes into: one process at a time, and an error in words where it cannot."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from bitnet_jit.errors import InvalidInput
from bitnet_jit.system.files import unfinished

LOCK = ".training.lock"


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Keep other processes from training into a folder within the block; remove unfinished files of a killed one.

    Raises:
        InvalidInput: another process does, or the folder cannot be made, listed or written to.
    """
    lock = locked(out)
    try:
        tidy(out)
        yield
    finally:
        lock.release()


def locked(out: Path) -> FileLock:
    """Make the folder and take its lock; InvalidInput where that cannot be."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / LOCK)
        lock.acquire(timeout=0)
    except Timeout:
        raise InvalidInput(f"out: another process trains into {out}; wait for its end or take another folder") from None
    # NotImplementedError: a file system without locks; ValueError: a NUL or half a surrogate pair in the path
    except (OSError, ValueError, NotImplementedError) as error:
        raise InvalidInput(f"out: {out} cannot be written to ({error})") from error
    return lock


def tidy(out: Path) -> None:
    """Remove the unfinished files of a killed process; InvalidInput where the folder does not allow it."""
    try:
        for left in unfinished(out):
            left.unlink()
    except OSError as error:
        raise InvalidInput(f"out: {out} cannot be tidied ({error})") from error
