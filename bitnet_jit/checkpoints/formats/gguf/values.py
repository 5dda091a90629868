"""The metadata of a GGUF file: numbers, strings and arrays, read from bytes that may lie.

Little endian. A string is a u64 count of bytes and UTF-8; an array is a u32 type, a u64 count, and the items.
"""

import array
import struct
from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np

from bitnet_jit.system.stable_file import StableFile

NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY, BOOL = 8, 9, 7
WINDOW = 2**20  # bytes of the file that are held at a time


class Strings(Sequence[str]):
    """An array of strings, kept as the bytes of the file: a vocabulary of short words takes little more memory.

    Args:
        content: the strings' bytes, one behind the other.
        ends: where each ends.
    """

    def __init__(self, content: bytes, ends: "array.array[int]") -> None:
        self._content, self._ends = content, ends

    def __len__(self) -> int:
        return len(self._ends)

    def __iter__(self) -> Iterator[str]:
        start = 0
        for end in self._ends:
            yield text_of(self._content[start:end])
            start = end

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        return text_of(self._bytes(range(len(self))[index]))

    def first(self, count: int) -> list[str]:
        """Return the first strings to be shown, what is no UTF-8 in them as escapes."""
        return [self._bytes(place).decode(errors="backslashreplace") for place in range(min(count, len(self)))]

    def _bytes(self, place: int) -> bytes:
        """Return the bytes of the string at a place."""
        start = self._ends[place - 1] if place else 0
        return self._content[start : self._ends[place]]


def text_of(content: bytes) -> str:
    """Return bytes of UTF-8 as a str. Raise ValueError where they are none."""
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"a string that is no UTF-8: {content[:40]!r}") from error


class Cursor:
    """A place in a file, from which values are read one behind the other.

    Every count is held against what is left of the file before anything is allocated.

    Args:
        file: the file.
        place: the first byte.
    """

    def __init__(self, file: StableFile, place: int = 0) -> None:
        self._file, self.place = file, place
        self._window, self._first = b"", place

    def take(self, count: int) -> bytes:
        """Return the next bytes. Raise ValueError where the file ends before."""
        start = self.place - self._first
        if start + count > len(self._window):
            if count > self._file.size - self.place:
                raise ValueError(f"{count} bytes at byte {self.place}; the file has {self._file.size}")
            size = min(max(count, WINDOW), self._file.size - self.place)
            self._window, self._first, start = self._file.read(self.place, size), self.place, 0
        self.place += count
        return self._window[start : start + count]

    def number(self, letter: str) -> Any:
        """Return the next number, of a letter of `struct`; a float32 as the shortest number that rounds to it: 1e-5."""
        (value,) = struct.unpack(f"<{letter}", self.take(struct.calcsize(f"<{letter}")))
        return float(str(np.float32(value))) if letter == "f" else value

    def string(self) -> str:
        """Return the next string."""
        return text_of(self.take(self.number("Q")))

    def value(self) -> Any:
        """Return the next value, which its type precedes: a number, a str, `Strings`, or a NumPy array."""
        kind = self.number("I")
        if kind == STRING:
            return self.string()
        if kind == ARRAY:
            return self._array()
        return self.number(letter_of(kind))

    def _array(self) -> "Strings | np.ndarray[Any, Any]":
        kind, count = self.number("I"), self.number("Q")
        if kind == STRING:
            return self._strings(count)
        if kind == ARRAY:
            raise ValueError(f"an array of arrays at byte {self.place}, which no key of a model has")
        dtype = np.dtype(letter_of(kind)).newbyteorder("<")
        return np.frombuffer(self.take(count * dtype.itemsize), dtype)

    def _strings(self, count: int) -> Strings:
        if 8 * count > self._file.size - self.place:
            raise ValueError(f"{count} strings at byte {self.place}; the file has {self._file.size}")
        content, ends = bytearray(), array.array("q")
        while len(ends) < count:
            self._whole_strings(count - len(ends), content, ends)
            if len(ends) < count:  # the next one reaches over the window's end
                content += self.take(int.from_bytes(self.take(8), "little"))
                ends.append(len(content))
        return Strings(bytes(content), ends)

    def _whole_strings(self, count: int, content: bytearray, ends: "array.array[int]") -> None:
        """Add up to `count` strings that lie in the window as a whole; vocabularies have hundreds of thousands."""
        window, at = self._window, self.place - self._first
        for _ in range(count):
            size = int.from_bytes(window[at : at + 8], "little")
            if at + 8 + size > len(window):
                break
            content += window[at + 8 : at + 8 + size]
            ends.append(len(content))
            at += 8 + size
        self.place = self._first + at


def letter_of(kind: int) -> str:
    """Return the letter of `struct` for a type of numbers. Raise ValueError where there is no such type."""
    if kind not in NUMBERS:
        raise ValueError(f"a value of the type {kind}, which is none of GGUF's")
    return NUMBERS[kind]
