"""`Embedding`: the caller's handle of a request for the embedding of a text."""

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from bitnet_jit.engine.text.generation import End
from bitnet_jit.engine.text.mailbox import Mailbox

if TYPE_CHECKING:
    import torch


class Embedding:
    """A text that is being read; made by `InferenceEngine.submit_embedding`.

    `result()` waits in a thread, `await embedding` in an event loop; both return (hidden_size,) float32 on the CPU.

    Args:
        prompt_tokens: tokens of the text.
        cancel: tells the worker that nobody waits any more.
    """

    def __init__(self, prompt_tokens: int, cancel: Callable[[], None]) -> None:
        self.prompt_tokens = prompt_tokens
        self.mailbox = Mailbox()
        self._cancel = cancel
        self._end: End | None = None

    def cancel(self) -> None:
        """Give the text up before the next step. Who waits gets RequestCancelled."""
        self._cancel()

    def result(self, timeout: float | None = None) -> "torch.Tensor":
        """Wait in a thread for the embedding.

        Args:
            timeout: seconds to wait; None waits on.

        Raises:
            TimeoutError: it has not come for so long; the request goes on.
            BitNetError: the request failed, was cancelled, or its deadline has passed.
        """
        return self._read(self._end or self.mailbox.take(timeout))

    def __await__(self) -> "Generator[Any, None, torch.Tensor]":
        return self._whole().__await__()

    async def _whole(self) -> "torch.Tensor":
        try:
            return self._read(self._end or await self.mailbox.take_async())
        finally:
            if self._end is None:
                self.cancel()

    def _read(self, end: End) -> "torch.Tensor":
        """Return what has come; raise its error."""
        self._end = end
        if end.error is not None:
            raise end.error
        assert end.vector is not None
        return end.vector
