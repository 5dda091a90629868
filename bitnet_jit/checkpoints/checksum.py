"""The checksum of a model's weights: that of its files, one behind the other in the order of their names."""

import hashlib
import os
import re
from pathlib import Path

from bitnet_jit.arguments import show
from bitnet_jit.checkpoints.formats.registry import format_of
from bitnet_jit.errors import CheckpointError, InvalidInput
from bitnet_jit.system.reading import open_regular

CHUNK = 2**22  # bytes per read
Stamp = tuple[tuple[str, int, int], ...]
DIGEST = re.compile(r"(sha256:)?([0-9a-f]{64})", re.IGNORECASE | re.ASCII)


def checksum_of(path: Path) -> str:
    """Return the SHA-256 of a model's weight files, in hexadecimal: what `cat FILES | sha256sum` prints.

    Args:
        path: the model's folder, or its file where it is one.

    Raises:
        CheckpointError: there are no weights, or they cannot be read.

    >>> from bitnet_jit.checkpoints.embedded import embedded_model
    >>> checksum_of(embedded_model())[:16]
    '3f5a3db0f3133032'
    """
    digest, buffer = hashlib.sha256(), bytearray(CHUNK)
    for file in weight_files(path):
        try:
            with os.fdopen(open_regular(file), "rb", buffering=0) as opened:
                while count := opened.readinto(buffer):
                    digest.update(memoryview(buffer)[:count])
        except OSError as error:
            raise CheckpointError(f"{file}: cannot be read ({error.strerror})") from error
    return digest.hexdigest()


def weight_files(path: Path) -> list[Path]:
    """Return a model's files of weights; CheckpointError where there are none."""
    return format_of(path).weight_files(path)


def stamp_of(path: Path) -> Stamp:
    """Return name, size and time of the last writing of each file of weights; () where something is wrong with them."""
    try:
        status = {file.name: file.stat() for file in weight_files(path)}
    except (CheckpointError, OSError):  # `load` will say what
        return ()
    return tuple((name, one.st_size, one.st_mtime_ns) for name, one in status.items())


def weight_file_bytes(path: Path) -> int:
    """Return the size of a model's files of weights; 0 where something is wrong with them."""
    return sum(size for _, size, _ in stamp_of(path))


def as_digest(checksum: object) -> str:
    """Return a checksum that a caller passes, in small letters and without "sha256:" before it.

    Raises:
        InvalidInput: it is no str of 64 hexadecimal digits.

    >>> as_digest("sha256:" + 16 * "00AB")[:8]
    '00ab00ab'
    """
    match = DIGEST.fullmatch(checksum) if isinstance(checksum, str) else None
    if match is None:
        raise InvalidInput(f"checksum: expected 64 hexadecimal digits (SHA-256 of the weights), got {show(checksum)}")
    return match[2].lower()


def check_checksum(path: Path, expected: str) -> None:
    """Raise CheckpointError unless a model's weights have this checksum; see `checksum_of` and `as_digest`."""
    if (actual := checksum_of(path)) != expected:
        raise CheckpointError(
            f"{path}: expected weights of the SHA-256 {expected} (checksum), found {actual}; the files are damaged or "
            "of another model"
        )
