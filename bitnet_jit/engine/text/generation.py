"""`Generation`: the caller's handle of a request for text, which a thread or an event loop iterates or awaits."""

from collections.abc import AsyncIterator, Callable, Generator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from bitnet_jit.engine.text.mailbox import Mailbox
from bitnet_jit.errors import BitNetError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class TokenLogprobs:
    """Log-probabilities at one place of a text, of the model's logits as they are.

    Attributes:
        chosen: of the token that was chosen.
        likeliest: pairs of a token id and its log-probability, the likeliest first.
    """

    chosen: float
    likeliest: tuple[tuple[int, float], ...]


class Piece(NamedTuple):
    """One new token of a text.

    Attributes:
        token: its id.
        text: what it makes certain of the text, possibly nothing; the last piece has what was held back, too.
        logprobs: of the token and the likeliest ones, where they were asked for.
    """

    token: int
    text: str
    logprobs: TokenLogprobs | None = None


@dataclass(frozen=True)
class Completion:
    """A text that has ended.

    Attributes:
        text: the new text; a stop string and what follows it are left out. "" without a tokenizer.
        tokens: the ids of all new tokens, with the one that ended the text.
        finish_reason: "stop" at an end token or a stop string, "length" at the limit.
        prompt_tokens: tokens of the prompt.
        cached_tokens: of them, those whose keys and values came from the cache of prefixes.
        logprobs: of each new token, where they were asked for.
        prompt_logprobs: of each token of the prompt but the first, where they were asked for.
        first_token_s: seconds from the request to the first token.
        seconds: from the request to the last token.
    """

    text: str
    tokens: list[int]
    finish_reason: str
    prompt_tokens: int
    cached_tokens: int = 0
    logprobs: list[TokenLogprobs] | None = None
    prompt_logprobs: list[TokenLogprobs] | None = None
    first_token_s: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True)
class End:
    """How a request ended.

    Attributes:
        reason: "stop" or "length"; "" with an error.
        error: what the caller gets raised, or None.
        prompt_logprobs, cached_tokens, first_token_s, seconds: as in `Completion`.
        vector: of a request for an embedding, (hidden_size,) float32 on the CPU.
    """

    reason: str
    error: BitNetError | None = None
    prompt_logprobs: list[TokenLogprobs] | None = None
    cached_tokens: int = 0
    first_token_s: float = 0.0
    seconds: float = 0.0
    vector: "torch.Tensor | None" = None


class Generation:
    """A text that is being written; made by `InferenceEngine.submit`.

    It is iterated once, by one caller: `for piece in generation` in a thread, `async for` in an event loop. `result()`
    and `await generation` read what is left and return the whole.

    Args:
        prompt_tokens: tokens of the prompt.
        text: makes text of tokens; see `pieces.TextPieces`.
        cancel: tells the worker that nobody waits any more.
    """

    def __init__(self, prompt_tokens: int, text: Any, cancel: Callable[[], None]) -> None:
        self.prompt_tokens = prompt_tokens
        self.mailbox = Mailbox()
        self._text, self._cancel = text, cancel
        self._pieces: list[Piece] = []
        self._end: End | None = None

    def cancel(self) -> None:
        """End the text where it is; its pages are free before the next step. Who waits gets RequestCancelled."""
        self._cancel()

    def __iter__(self) -> Iterator[Piece]:
        while self._end is None and (piece := self._read(self.mailbox.take())) is not None:
            yield piece

    async def __aiter__(self) -> AsyncIterator[Piece]:
        try:
            while self._end is None:
                piece = self._read(await self.mailbox.take_async())
                if piece is not None:
                    yield piece
        finally:
            if self._end is None:  # nobody reads on: the caller was cancelled, or left its loop
                self.cancel()

    def result(self, timeout: float | None = None) -> Completion:
        """Wait in a thread for the end of the text.

        Args:
            timeout: seconds to wait for each next token; None waits on.

        Raises:
            TimeoutError: no token has come for so long; the request goes on.
            BitNetError: the request failed, was cancelled, or its deadline has passed.
        """
        while self._end is None:
            self._read(self.mailbox.take(timeout))
        return self.completion

    def __await__(self) -> Generator[Any, None, Completion]:
        return self._whole().__await__()

    async def _whole(self) -> Completion:
        async for _ in self:
            pass
        return self.completion

    @property
    def completion(self) -> Completion:
        """Return the whole text, once it has ended and all of it has been read."""
        end = self._end
        assert end is not None, "the text has not been read to its end"
        if end.error is not None:
            raise end.error
        with_logprobs = [piece.logprobs for piece in self._pieces if piece.logprobs is not None]
        return Completion(
            "".join(piece.text for piece in self._pieces),
            [piece.token for piece in self._pieces],
            end.reason,
            self.prompt_tokens,
            end.cached_tokens,
            with_logprobs or None,
            end.prompt_logprobs,
            end.first_token_s,
            end.seconds,
        )

    def _read(self, item: Any) -> Piece | None:
        """Return an item of the mailbox as a piece, None where it is the end; raise its error."""
        if isinstance(item, End):
            self._end = item
            if item.error is not None:
                raise item.error
            return None
        token, logprobs, last = item
        piece = Piece(token, self._text.push(token, last), logprobs)
        self._pieces.append(piece)
        return piece
