"""`MemorySize`: a number of bytes by its unit."""

import math
from dataclasses import dataclass

from bitnet_jit.arguments import as_real, as_whole, show
from bitnet_jit.errors import InvalidInput
from bitnet_jit.system.memory import in_words

MAX_BYTES = 2**63 - 1


@dataclass(frozen=True)
class MemorySize:
    """A number of bytes; a KB is 1024 of them, an MB 1024 KB, a GB 1024 MB.

    Attributes:
        num_bytes: the number, one at least.

    Raises:
        InvalidInput: it is no whole number of bytes of at least one.

    >>> MemorySize.GB(2).num_bytes, str(MemorySize.MB(1.5))
    (2147483648, '1.5 MiB')
    """

    num_bytes: int

    def __post_init__(self) -> None:
        number = as_whole(self.num_bytes)
        if number is None or not 1 <= number <= MAX_BYTES:
            raise InvalidInput(f"num_bytes: expected a whole number from 1 to {MAX_BYTES}, got {show(self.num_bytes)}")
        object.__setattr__(self, "num_bytes", number)

    @classmethod
    def KB(cls, number: float) -> "MemorySize":
        """Return so many times 1024 bytes."""
        return cls(scaled(number, 2**10))

    @classmethod
    def MB(cls, number: float) -> "MemorySize":
        """Return so many times 1024 KB."""
        return cls(scaled(number, 2**20))

    @classmethod
    def GB(cls, number: float) -> "MemorySize":
        """Return so many times 1024 MB."""
        return cls(scaled(number, 2**30))

    def __str__(self) -> str:
        return in_words(self.num_bytes)


def scaled(number: object, unit: int) -> int:
    """Return a number of units in bytes, rounded down; InvalidInput where that makes no sense."""
    value = as_real(number)
    if value is None or not math.isfinite(value) or not 1 <= value * unit <= MAX_BYTES:
        raise InvalidInput(f"number: expected a size of at least one byte, got {show(number)}")
    return int(value * unit)
