"""`FreeSpans`: which bytes of a region are free. Plain bookkeeping over numbers: it touches no memory."""

from bisect import bisect_left, insort


class FreeSpans:
    """The free parts of a region; neighbours are one span.

    Args:
        num_bytes: of the region, all of which is free.

    Attributes:
        free: bytes that are free.

    >>> spans = FreeSpans(100)
    >>> first, second = spans.take(60), spans.take(30)
    >>> spans.give(first, 60)
    >>> first, second, spans.best(40), spans.best(70), spans.free
    (0, 60, 60, None, 70)
    """

    def __init__(self, num_bytes: int) -> None:
        self.free = num_bytes
        self._by_size = [(num_bytes, 0)]  # (size, offset), in order
        self._ends = {0: num_bytes}  # offset -> end
        self._starts = {num_bytes: 0}  # end -> offset

    def best(self, size: int) -> int | None:
        """Return the size of the smallest span that holds so many bytes; None where there is none."""
        place = bisect_left(self._by_size, (size, 0))
        return self._by_size[place][0] if place < len(self._by_size) else None

    def largest(self) -> tuple[int, int]:
        """Return offset and size of the largest span; (0, 0) where nothing is free."""
        if not self._by_size:
            return 0, 0
        size, offset = self._by_size[-1]
        return offset, size

    def take(self, size: int) -> int | None:
        """Take bytes from the smallest span that holds them; return their offset, or None where there is none."""
        place = bisect_left(self._by_size, (size, 0))
        if place == len(self._by_size):
            return None
        length, offset = self._by_size.pop(place)
        del self._ends[offset], self._starts[offset + length]
        if length > size:
            self._add(offset + size, offset + length)
        self.free -= size
        return offset

    def give(self, offset: int, size: int) -> None:
        """Give bytes back that `take` returned."""
        start, end = offset, offset + size
        self.free += size
        if start in self._starts:
            start = self._remove(self._starts[start], start)
        if end in self._ends:
            after = self._ends[end]
            self._remove(end, after)
            end = after
        self._add(start, end)

    def _add(self, start: int, end: int) -> None:
        """Note a span."""
        insort(self._by_size, (end - start, start))
        self._ends[start], self._starts[end] = end, start

    def _remove(self, start: int, end: int) -> int:
        """Forget a span; return its offset."""
        del self._by_size[bisect_left(self._by_size, (end - start, start))], self._ends[start], self._starts[end]
        return start
