"""A full disk, a place that cannot be written to: one error of ours, which names the file."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from bitnet_jit.errors import WriteError


@contextmanager
def writing(file: Path) -> Iterator[None]:
    """Within the block a file is written; raises WriteError, which names it, where that fails."""
    try:
        yield
    except WriteError:
        raise
    except (OSError, SafetensorError) as error:
        raise WriteError(f"{file} cannot be written ({error}); what was there before is left as it was") from error
