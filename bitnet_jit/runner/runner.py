"""`Runner`: a network with a paged cache, which makes steps over any mix of sequences."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from bitnet_jit.devices.kinds import kind_of
from bitnet_jit.errors import CacheFull, InvalidInput
from bitnet_jit.models.paged_store import PagedStore
from bitnet_jit.problem import pages_for
from bitnet_jit.runner.decode import MAX_ROWS, DecodeSteps, Scores, can_capture
from bitnet_jit.runner.paged_cache import PagedCache
from bitnet_jit.runner.pages import PagedSequence
from bitnet_jit.runner.recorded import RecordedSteps, Shape
from bitnet_jit.runner.step import Chunk, make_step

if TYPE_CHECKING:
    from bitnet_jit.models.network import Network


class Runner:
    """A network, and the keys and values of the sequences that it continues.

    A step takes chunks of any sequences: parts of prompts, single tokens, drafted tokens. On one kind of device the
    logits of a token are the same, bit for bit, however its sequence is cut into chunks and whoever shares its steps.

    Args:
        network: the network.
        num_pages: pages of the cache, 64 tokens each.
        captures: whether `advance` captures steps, where the device allows that.
        num_sequences: at a time, of a model with states; None: as many as pages.

    Attributes:
        network: as above.
        cache: the pages; sequences are made, forked, truncated and freed there.

    Raises:
        InvalidInput: num_pages is no positive number, or memory does not suffice.

    >>> import bitnet_jit
    >>> from bitnet_jit.checkpoints.embedded import embedded_model
    >>> runner = Runner(bitnet_jit.load(embedded_model()), num_pages=4)
    >>> one, two = runner.cache.new_sequence(), runner.cache.new_sequence()
    >>> runner.step([Chunk(one, b"In the beginning"), Chunk(two, b"And God")]).shape
    torch.Size([2, 256])
    >>> one.length, two.length
    (16, 7)
    """

    def __init__(
        self, network: "Network", num_pages: int, captures: bool = True, num_sequences: int | None = None
    ) -> None:
        self.network = network
        self.cache = PagedCache(
            network.config, num_pages, network.cache_dtype, network.device, num_sequences, network.dtype
        )
        width = min(self.cache.pool.count, pages_for(network.config.context_length))
        captures = captures and can_capture(network.device)
        self._decode = DecodeSteps(self.cache, width) if captures else None
        self._recorded = RecordedSteps(self.cache, width, network.device) if captures else None

    def step(self, chunks: Sequence[Chunk]) -> torch.Tensor:
        """Run the tokens of chunks, of different sequences, and keep their keys and values.

        Args:
            chunks: what to add to which sequence; token ids are in range.

        Returns:
            (W, vocab_size) float32: logits of the tokens that follow those asked for, chunk after chunk.

        Raises:
            InvalidInput: there is no token, a sequence comes twice, or would be longer than the model's context.
            CacheFull: pages do not suffice; no sequence has changed.
        """
        return self.network.logits(self.hidden(chunks))

    def hidden(self, chunks: Sequence[Chunk]) -> torch.Tensor:
        """Run the tokens of chunks as `step` does; return the hidden states of those asked for in place of logits.

        Returns:
            (W, hidden_size) of the network's dtype: the normalized output of the last block.

        Raises:
            InvalidInput, CacheFull: as `step`.
        """
        self._begin(chunks)
        step = make_step(chunks, self.network.device)
        longest = max(chunk.sequence.length + len(chunk.tokens) for chunk in chunks)
        rotary = self.network.rope.rotary(longest, self.network.device)
        store = PagedStore(self.cache.pages, rotary, step.places, self.cache.states)
        hidden = self.network.run(step.tokens, store, step.wanted)
        self._end(chunks)
        return hidden

    def repeat(self, chunks: Sequence[Chunk]) -> torch.Tensor:
        """Run chunks as `step` does, by a step of their shape that is captured once, where that is of use.

        Returns:
            (W, vocab_size) float32, valid until the next step.

        Raises:
            InvalidInput, CacheFull: as `step`.
        """
        if self._recorded is None or (shape := self._recorded.shape_of(chunks)) is None:
            return self.step(chunks)
        self._begin(chunks)
        logits = self._recorded.run(self.network, shape, chunks)
        self._end(chunks)
        return logits

    def shape_of(self, chunks: Sequence[Chunk]) -> tuple[Shape | None, bool]:
        """Return the shape of the step that `repeat` would capture for chunks, if any, and whether it has been."""
        shape = None if self._recorded is None else self._recorded.shape_of(chunks)
        return shape, self._recorded is not None and shape in self._recorded

    def capture_next(self, most: int) -> bool:
        """Capture a step of `repeat` that chunks of at most `most` sequences may need; return whether one was left.

        Each is captured once so, where steps are graphs; elsewhere there are too many shapes.
        """
        return self._recorded is not None and self._recorded.capture_next(self.network, most)

    @property
    def runs_ahead(self) -> bool:
        """Return whether `advance` gives back logits before they have been computed."""
        return self._decode is not None and kind_of(self.network.device).capture is not None

    def advance(self, sequences: Sequence[PagedSequence], tokens: torch.Tensor) -> Scores:
        """Run one token per sequence, as `step` does, but by a step that is captured once; on a GPU nothing waits.

        Args:
            sequences: each of them once, one at least.
            tokens: (R,) int64 on the network's device, in range. Those that the step before gave back, or as many of
                its first ones, are not copied.

        Returns:
            The logits (R, vocab_size) and what is known of them, valid until the next step.

        Raises:
            InvalidInput: a sequence would be longer than the model's context.
            CacheFull: pages do not suffice; no sequence has changed.
        """
        if self._decode is None or len(sequences) > MAX_ROWS:
            chunks = zip(sequences, tokens.tolist(), strict=True)
            return Scores(self.step([Chunk(sequence, [token]) for sequence, token in chunks]), None)
        self.check([Chunk(sequence, [0]) for sequence in sequences])
        self._reserve([(sequence, 1) for sequence in sequences])
        self.cache.begin(sequences)
        scores = self._decode.run(self.network, sequences, tokens)
        for sequence in sequences:
            self.cache.end(sequence, 1)
        return scores

    def _begin(self, chunks: Sequence[Chunk]) -> None:
        """Check chunks, and make room for them."""
        self.check(chunks)
        self._reserve([(chunk.sequence, len(chunk.tokens)) for chunk in chunks])
        self.cache.begin(chunk.sequence for chunk in chunks)

    def _end(self, chunks: Sequence[Chunk]) -> None:
        """Note that chunks have been added."""
        for chunk in chunks:
            self.cache.end(chunk.sequence, len(chunk.tokens))

    def _reserve(self, sequences: Sequence[tuple[PagedSequence, int]]) -> None:
        """Make room for new tokens of each sequence; give all pages back where they do not suffice."""
        try:
            for sequence, tokens in sequences:
                self.cache.extend(sequence, tokens)
        except CacheFull:
            for sequence, _ in sequences:
                self.cache.truncate(sequence, sequence.length)
            raise

    def check(self, chunks: Sequence[Chunk]) -> None:
        """Raise InvalidInput unless a step may have these chunks."""
        seen: set[PagedSequence] = set()
        context = self.network.config.context_length
        for chunk in chunks:
            if not chunk.tokens or not 0 <= chunk.wanted <= len(chunk.tokens):
                raise InvalidInput(
                    f"chunks: expected at least one token and logits of no more, got {len(chunk.tokens)} tokens and "
                    f"wanted={chunk.wanted}"
                )
            if (length := chunk.sequence.length + len(chunk.tokens)) > context:
                raise InvalidInput(
                    f"chunks: a sequence would have {length} tokens, but the model's context is {context}"
                )
            if chunk.sequence in seen:
                raise InvalidInput("chunks: a sequence stands there twice; give its tokens in one chunk")
            seen.add(chunk.sequence)
        if not seen:
            raise InvalidInput("chunks: expected at least one, got none")
