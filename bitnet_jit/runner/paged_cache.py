"""The pages themselves: keys and values of every layer, for sequences of any length that may share a beginning.

Layers without attention have states instead, one slot a sequence. A state is of all tokens so far and cannot go back:
such a sequence is forked as a whole, and where some of its tokens are to be forgotten, all are.
"""

from collections.abc import Iterable

import torch

from bitnet_jit.arguments import whole_number
from bitnet_jit.errors import InvalidInput
from bitnet_jit.models.config import DecoderConfig
from bitnet_jit.models.paged_store import empty_pages
from bitnet_jit.models.recurrent_states import empty_states
from bitnet_jit.problem import PAGE
from bitnet_jit.runner.pages import IN_STEP, PagedSequence, PagePool, SlotPool, extend, fork, truncate


class PagedCache:
    """Keys and values in pages of 64 tokens, allocated once.

    Args:
        config: the decoder's.
        num_pages: pages of all sequences together.
        dtype: of keys and values.
        device: where they live.
        num_sequences: with states, at a time; None: as many as pages.
        state_dtype: of activations, where states keep some; None: that of keys and values.

    Attributes:
        pages: keys and values of each layer, and their scales where they are int8.
        pool: which page belongs to whom.
        states: of layers without attention; None where there are none.

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

    def __init__(
        self,
        config: DecoderConfig,
        num_pages: int,
        dtype: torch.dtype,
        device: torch.device,
        num_sequences: int | None = None,
        state_dtype: torch.dtype | None = None,
    ) -> None:
        count = whole_number("num_pages", num_pages, 1, 2**31 - 1)
        slots = count if num_sequences is None else whole_number("num_sequences", num_sequences, 1, 2**31 - 1)
        words = f"num_pages: a cache of {count} pages of {PAGE} tokens"
        self.pages = empty_pages(words, config, count, dtype, device)
        self.pool = PagePool(count)
        words = f"num_sequences: the states of {slots} sequences"
        self.states = empty_states(words, config, slots, state_dtype or dtype, device)
        self.slots = SlotPool(slots)

    @property
    def num_bytes(self) -> int:
        """Return the size of the storage."""
        return self.pages.num_bytes + (0 if self.states is None else self.states.num_bytes)

    def new_sequence(self) -> PagedSequence:
        """Return a sequence without tokens."""
        return PagedSequence()

    def extend(self, sequence: PagedSequence, tokens: int) -> None:
        """Make room for `tokens` more behind a sequence's last one; a page that others refer to is copied first.

        Raises:
            CacheFull: pages or slots do not suffice; nothing has changed.
        """
        begins = self.states is not None and not sequence.pages
        if begins:
            self.slots.check_free()
        copies = extend(self.pool, sequence, tokens)
        if begins:
            sequence.slot = self.slots.take()
        if copies:
            try:
                self.pages.copy(copies)
            except BaseException:  # such as short memory: its new pages do not hold what they should
                self.free(sequence)
                raise

    def fork(self, sequence: PagedSequence, length: int | None = None) -> PagedSequence:
        """Return a new sequence with the first `length` tokens of another (None: all), whose pages it shares.

        Raises:
            InvalidInput: the other has not so many, or more, and states, which cannot go back.
            CacheFull: no slot is free.
        """
        length = checked_length(sequence, length)
        if self.states is None or not length:
            return fork(self.pool, sequence, length)
        if length != sequence.state_length:
            raise InvalidInput(
                f"length: expected {sequence.length}, all tokens of a sequence with states, got {length}"
            )
        self.slots.check_free()
        copy = fork(self.pool, sequence, length)
        copy.slot, copy.state_length = self.slots.take(), length
        self.states.copy(sequence.slot, copy.slot)
        return copy

    def truncate(self, sequence: PagedSequence, length: int) -> None:
        """Forget all tokens of a sequence from number `length` on; all of them where its states are of others.

        Raises:
            InvalidInput: it has not so many.
        """
        length = checked_length(sequence, length)
        if self.states is not None and length != sequence.state_length:
            length = 0
        if self.states is not None and not length and sequence.pages:
            self.slots.give(sequence.slot)
            sequence.state_length = 0
        truncate(self.pool, sequence, length)

    def free(self, sequence: PagedSequence) -> None:
        """Forget a sequence; pages that no other refers to are free then."""
        self.truncate(sequence, 0)

    def begin(self, sequences: Iterable[PagedSequence]) -> None:
        """Note that a step begins to change the states of sequences, where there are states."""
        for sequence in sequences if self.states is not None else ():
            sequence.state_length = IN_STEP

    def end(self, sequence: PagedSequence, tokens: int) -> None:
        """Note that a step has added so many tokens to a sequence."""
        sequence.length += tokens
        sequence.state_length = sequence.length


def checked_length(sequence: PagedSequence, length: int | None) -> int:
    """Return a number of tokens that a sequence has."""
    if length is None:
        return sequence.length
    if not 0 <= length <= sequence.length:
        raise InvalidInput(f"length: expected 0 to {sequence.length}, the tokens of the sequence, got {length!r}")
    return length
