"""Which page belongs to whom: an allocator that counts references, and the table of a sequence's pages.

Nothing here knows a tensor. Pages are numbers; a page that several sequences refer to is written by none of them.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from bitnet_jit.errors import CacheFull
from bitnet_jit.problem import PAGE, pages_for

IN_STEP = -1


class PagePool:
    """Pages 0 to count - 1, each free or referred to by one sequence or more.

    The page that was freed last is taken first: its memory is there already, and may be in the caches.

    Args:
        count: number of pages.
    """

    def __init__(self, count: int) -> None:
        self._free = deque(range(count))
        self._references = [0] * count

    @property
    def count(self) -> int:
        """Return the number of pages, used and free."""
        return len(self._references)

    @property
    def num_free(self) -> int:
        """Return the number of free pages."""
        return len(self._free)

    def references(self, page: int) -> int:
        """Return how many sequences refer to a page."""
        return self._references[page]

    def take(self, number: int) -> list[int]:
        """Take free pages.

        Raises:
            CacheFull: there are not so many; nothing has been taken.
        """
        if number > len(self._free):
            raise CacheFull(
                f"pages: {number} more of {PAGE} tokens are needed, and {len(self._free)} of {self.count} are free; "
                "free a sequence or make a cache of more pages"
            )
        pages = [self._free.popleft() for _ in range(number)]
        for page in pages:
            self._references[page] = 1
        return pages

    def share(self, pages: Sequence[int]) -> None:
        """Count one more reference to each page."""
        for page in pages:
            self._references[page] += 1

    def release(self, pages: Sequence[int]) -> None:
        """Count one reference less to each page; the last one frees it."""
        for page in pages:
            self._references[page] -= 1
            if not self._references[page]:
                self._free.appendleft(page)


@dataclass(eq=False)
class PagedSequence:
    """The pages of one sequence; made and changed by a `PagedCache`.

    Attributes:
        pages: their numbers, in order.
        length: tokens whose keys and values are kept.
        slot: of its states, which it has from its first token on; see `PagedCache`.
        state_length: tokens that its states are of; IN_STEP while a step changes them.
    """

    pages: list[int] = field(default_factory=list)
    length: int = 0
    slot: int = 0
    state_length: int = 0


class SlotPool:
    """Slots 0 to count - 1, each free or of one sequence.

    Args:
        count: number of slots.
    """

    def __init__(self, count: int) -> None:
        self.count, self._free = count, list(range(count))

    def check_free(self) -> None:
        """Raise CacheFull where no slot is free."""
        if not self._free:
            raise CacheFull(
                f"num_sequences: all {self.count} slots for states are in use; free a sequence or make a cache of more"
            )

    def take(self) -> int:
        """Take a free slot; `check_free` has passed."""
        return self._free.pop()

    def give(self, slot: int) -> None:
        """Take a slot back."""
        self._free.append(slot)


def extend(pool: PagePool, sequence: PagedSequence, tokens: int) -> list[tuple[int, int]]:
    """Make room for `tokens` more behind a sequence's last one, in pages that are its alone.

    Returns:
        Pages (from, to) to copy before anything is written, as others refer to the first ones.

    Raises:
        CacheFull: pages do not suffice; nothing has changed.
    """
    shared = shared_tail(pool, sequence)
    more = max(0, pages_for(sequence.length + tokens) - len(sequence.pages))
    if not shared and not more:
        return []
    pages = pool.take(len(shared) + more)
    copies = [(sequence.pages[place], page) for place, page in zip(shared, pages, strict=False)]
    for place, (before, after) in zip(shared, copies, strict=True):
        sequence.pages[place] = after
        pool.release([before])
    sequence.pages += pages[len(shared) :]
    return copies


def shared_tail(pool: PagePool, sequence: PagedSequence) -> list[int]:
    """Return the places of pages that the next tokens are written to and that others refer to, too."""
    first = sequence.length // PAGE
    return [place for place in range(first, len(sequence.pages)) if pool.references(sequence.pages[place]) > 1]


def fork(pool: PagePool, sequence: PagedSequence, length: int) -> PagedSequence:
    """Return a new sequence with the first `length` tokens of another, whose pages it shares."""
    pages = sequence.pages[: pages_for(length)]
    pool.share(pages)
    return PagedSequence(list(pages), length)


def truncate(pool: PagePool, sequence: PagedSequence, length: int) -> None:
    """Forget all tokens of a sequence from number `length` on, and pages that are not needed any more."""
    keep = pages_for(length)
    pool.release(sequence.pages[keep:])
    del sequence.pages[keep:]
    sequence.length = length
