"""The folder that a training writes into: one process at a time does."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from bitnet_jit.errors import InvalidInput
from bitnet_jit.files import unfinished

LOCK = ".training.lock"


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Within the block no other process trains into that folder; what a killed one has left unfinished goes.

    Raises:
        InvalidInput: one does, or the folder cannot be made.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / LOCK)
        lock.acquire(timeout=0)
    except Timeout:
        raise InvalidInput(f"out: another process trains into {out}; wait for its end or take another folder") from None
    except OSError as error:
        raise InvalidInput(f"out: {out} cannot be written to ({error.strerror})") from error
    try:
        for left in unfinished(out):
            left.unlink()
        yield
    finally:
        lock.release()
