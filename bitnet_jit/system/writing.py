"""Errors of writing, such as a full disk: one error of ours, which names the file."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from bitnet_jit.errors import WriteError


@contextmanager
def writing(file: Path) -> Iterator[None]:
    """Raise WriteError, which names the file, where writing it fails within the block."""
    try:
        yield
    except WriteError:
        raise
    except (OSError, SafetensorError) as error:
        raise WriteError(f"{file} cannot be written ({error}); what was there before is left as it was") from error
