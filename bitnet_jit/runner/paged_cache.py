"""The pages themselves: keys and values of every layer, for sequences of any length that may share a beginning."""

import torch

from bitnet_jit.arguments import whole_number
from bitnet_jit.errors import InvalidInput
from bitnet_jit.models.config import DecoderConfig
from bitnet_jit.models.paged_store import empty_pages
from bitnet_jit.problem import PAGE
from bitnet_jit.runner.pages import PagedSequence, PagePool, extend, fork, truncate


class PagedCache:
    """Keys and values in pages of 64 tokens, allocated once.

    Args:
        config: the decoder's.
        num_pages: pages of all sequences together.
        dtype: of keys and values.
        device: where they live.

    Attributes:
        pages: keys and values of each layer, and their scales where they are int8.
        pool: which page belongs to whom.

    Raises:
        InvalidInput: num_pages is no positive number, or memory does not suffice.

    >>> from bitnet_jit.training.settings import TrainSettings
    >>> cache = PagedCache(TrainSettings().decoder(), 4, torch.float32, torch.device("cpu"))
    >>> sequence = cache.new_sequence()
    >>> cache.extend(sequence, 100)
    >>> len(sequence.pages), cache.pool.num_free
    (2, 2)
    >>> cache.free(sequence)
    >>> cache.pool.num_free
    4
    """

    def __init__(self, config: DecoderConfig, num_pages: int, dtype: torch.dtype, device: torch.device) -> None:
        count = whole_number("num_pages", num_pages, 1, 2**31 - 1)
        words = f"num_pages: a cache of {count} pages of {PAGE} tokens"
        self.pages = empty_pages(words, config, count, dtype, device)
        self.pool = PagePool(count)

    @property
    def num_bytes(self) -> int:
        """Return the size of the storage."""
        return self.pages.num_bytes

    def new_sequence(self) -> PagedSequence:
        """Return a sequence without tokens."""
        return PagedSequence()

    def extend(self, sequence: PagedSequence, tokens: int) -> None:
        """Make room for `tokens` more behind a sequence's last one; a page that others refer to is copied first.

        Raises:
            CacheFull: pages do not suffice; nothing has changed.
        """
        copies = extend(self.pool, sequence, tokens)
        if copies:
            try:
                self.pages.copy(copies)
            except BaseException:  # such as short memory: its new pages do not hold what they should
                self.free(sequence)
                raise

    def fork(self, sequence: PagedSequence, length: int | None = None) -> PagedSequence:
        """Return a new sequence with the first `length` tokens of another (None: all), whose pages it shares.

        Raises:
            InvalidInput: the other has not so many.
        """
        return fork(self.pool, sequence, checked_length(sequence, length))

    def truncate(self, sequence: PagedSequence, length: int) -> None:
        """Forget all tokens of a sequence from number `length` on.

        Raises:
            InvalidInput: it has not so many.
        """
        truncate(self.pool, sequence, checked_length(sequence, length))

    def free(self, sequence: PagedSequence) -> None:
        """Forget a sequence; pages that no other refers to are free then."""
        truncate(self.pool, sequence, 0)


def checked_length(sequence: PagedSequence, length: int | None) -> int:
    """Return a number of tokens that a sequence has."""
    if length is None:
        return sequence.length
    if not 0 <= length <= sequence.length:
        raise InvalidInput(f"length: expected 0 to {sequence.length}, the tokens of the sequence, got {length!r}")
    return length
