"""`StableFile`: a file that is read by position and must stay as it is meanwhile.

It is never mapped: where a mapped file shrinks, a process that reads the lost part is killed.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Self

from bitnet_jit.system.cores import available_cores
from bitnet_jit.system.reading import open_regular

READ_LIMIT = 2**30  # bytes per call of the system, which takes no more than 2 GiB
MAX_THREADS = 4  # that read at a time
PART_BYTES = 2**21  # that are worth a thread


class StableFile:
    """A regular file, open for reading; a context manager that closes it.

    Attributes:
        path: the file.
        size: bytes of it.

    Raises:
        OSError: it cannot be opened, or is not regular.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = open_regular(path)
        self._state = self._look()
        self.size = self._state[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def reopen(self) -> None:
        """Open the file again. Raise ValueError where it was written to since it was opened first."""
        self._descriptor = open_regular(self.path)
        try:
            self.check_unchanged()
        except ValueError:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1

    def fill(self, buffer: memoryview, start: int) -> None:
        """Fill a buffer of bytes with those from `start` on. Raise ValueError where the file ends before.

        Threads share a large one, as one core copies slower than the memory takes it.
        """
        threads = min(MAX_THREADS, available_cores(), len(buffer) // PART_BYTES) if hasattr(os, "preadv") else 1
        if threads < 2:
            return self._fill_part(buffer, start, 0, len(buffer))
        ends = [len(buffer) * (number + 1) // threads for number in range(threads)]
        with ThreadPoolExecutor(threads - 1, "bitnet_jit-read") as pool:
            rest = [pool.submit(self._fill_part, buffer, start, *bounds) for bounds in pairwise(ends)]
            self._fill_part(buffer, start, 0, ends[0])
            for part in rest:
                part.result()

    def _fill_part(self, buffer: memoryview, start: int, filled: int, end: int) -> None:
        """Fill the bytes of a buffer from `filled` to `end`."""
        while filled < end:
            part = buffer[filled : min(end, filled + READ_LIMIT)]
            if not (count := read_at(self._descriptor, part, start + filled)):
                raise ValueError(f"its end at byte {start + filled}, before byte {start + len(buffer)}")
            filled += count

    def read(self, start: int, count: int) -> bytes:
        """Return `count` bytes from `start` on. Raise ValueError where the file ends before."""
        buffer = bytearray(count)
        self.fill(memoryview(buffer), start)
        return bytes(buffer)

    def check_unchanged(self) -> None:
        """Raise ValueError where the file was written to since it was opened."""
        if self._look() != self._state:
            raise ValueError("it is being written")

    def _look(self) -> tuple[int, int]:
        """Return size and time of the last writing."""
        status = os.fstat(self._descriptor)
        return status.st_size, status.st_mtime_ns


def read_at(descriptor: int, buffer: memoryview, start: int) -> int:
    """Fill the first bytes of a buffer with those of a file from `start` on; return their number, 0 at its end."""
    if hasattr(os, "preadv"):
        return os.preadv(descriptor, [buffer], start)
    os.lseek(descriptor, start, os.SEEK_SET)  # Windows
    chunk = os.read(descriptor, len(buffer))
    buffer[: len(chunk)] = chunk
    return len(chunk)
