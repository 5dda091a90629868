"""Errors of the package: one root, and each branch is also the built-in exception that a caller would expect."""

from collections.abc import Mapping, Sequence
from typing import Any


class BitNetError(Exception):
    """The root of every error that this package raises on purpose.

    Attributes:
        is_recoverable: whether the same call may succeed later, when others have ended or memory is free again.
    """

    is_recoverable = False


class InvalidInput(BitNetError, ValueError):
    """An argument has a wrong shape, dtype, device or value; the message names the argument and the value."""


class MissingPackage(InvalidInput, ImportError):
    """A package that is asked for is not installed, or too old; the message says what to install."""


class CheckpointError(BitNetError, ValueError):
    """A model file lacks a part, holds a wrong one, or is of an unknown kind."""


class CheckpointWarning(UserWarning):
    """A model file can be read, but something in it is unlikely to be meant; the message names tensor and value."""


class WriteError(BitNetError, OSError):
    """A file cannot be written: its disk is full, its folder is read-only, ...; the message names it."""


class OutOfMemory(BitNetError, MemoryError):
    """A request needs more memory than there is; the message says which sizes."""

    is_recoverable = True


class CacheFull(OutOfMemory):
    """The pages of a cache do not suffice; the message says how many are needed, and nothing has changed."""


class GenerationError(BitNetError):
    """Some texts of a batch could not be continued to their ends; the others were.

    Attributes:
        errors: number of the prompt -> what went wrong, in words.
        texts: the token ids of every prompt with its new tokens, as far as it came.
    """

    def __init__(self, errors: Mapping[int, str], texts: Sequence[Sequence[int]]) -> None:
        self.errors, self.texts = dict(errors), [list(text) for text in texts]
        super().__init__("; ".join(f"prompt {row}: {words}" for row, words in self.errors.items()))

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        return type(self), (self.errors, self.texts)


class UnsupportedProblem(BitNetError, NotImplementedError):
    """No kernel takes a problem. `refusals` maps each kernel's name to its reason in words."""

    def __init__(self, problem: str, refusals: Mapping[str, str]) -> None:
        self.problem, self.refusals = problem, dict(refusals)
        reasons = "".join(f"\n  {name}: {reason}" for name, reason in self.refusals.items()) or "\n  (no kernel at all)"
        super().__init__(f"no kernel can run {problem}; each one's reason:{reasons}")

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        return type(self), (self.problem, self.refusals)


class EngineError(BitNetError):
    """A request to an engine did not end as asked."""


class QueueFull(EngineError):
    """An engine has as many waiting requests as it may have; the message says how many. Try again later."""

    is_recoverable = True


class RequestTimeout(EngineError, TimeoutError):
    """The deadline of a request has passed; the message says how far it came."""

    is_recoverable = True


class RequestCancelled(EngineError):
    """A request was cancelled by its caller."""


class RequestFailed(EngineError):
    """A request met an error of its own, such as logits that are NaN; others were not affected."""


class ModelNotFound(EngineError, LookupError):
    """An engine has no model of that name; the message lists those that it has."""


class EngineClosed(EngineError, RuntimeError):
    """An engine takes no more requests, as it is being closed or its worker has ended; the message says why."""


class DeviceFailed(EngineClosed):
    """A device has failed, and no other one is left that could go on; the message says which, and why."""
