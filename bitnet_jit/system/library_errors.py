"""Errors of libraries that read foreign files: each becomes a CheckpointError in words."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from bitnet_jit.errors import CheckpointError

PANICS = "pyo3_runtime"  # the module of PanicException, by which libraries written in Rust tell of a failed assertion


@contextmanager
def refused(words: Callable[[BaseException], str]) -> Iterator[None]:
    """Turn any error of a foreign library within the block into a CheckpointError.

    `tokenizers` and `huggingface_hub` raise plain Exceptions and classes without a common root, and a panic of their
    Rust parts is a BaseException; so all Exceptions and panics are caught here. Ctrl-C passes.

    Args:
        words: makes the message of the error.

    Raises:
        CheckpointError: the block raised something.

    >>> with refused(lambda error: f"tokenizer.json: cannot be used ({error})"):
    ...     raise KeyError("model")
    Traceback (most recent call last):
    bitnet_jit.errors.CheckpointError: tokenizer.json: cannot be used ('model')
    """
    try:
        yield
    except CheckpointError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__module__ != PANICS:
            raise
        raise CheckpointError(words(error)) from error


def reason(error: BaseException, longest: int = 400) -> str:
    """Return the message of an error on one line, not too long; its kind where the message is empty."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= longest else f"{text[:longest]}..."
