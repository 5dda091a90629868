"""How files hold the codes of a weight, where that is no packing of ours: what turns bytes into canonical `i2`.

Two things move: in which places of which bytes the codes along K lie (`Blocks`), or of which rows a byte holds a column
(`Columns`). Codes are w + 1, as ours.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Run:
    """A run of bytes in a block.

    Byte m of a run holds codes of the elements first + n * num_bytes + m, as digit n.

    Attributes:
        start: its first byte.
        num_bytes: of it; a multiple of 4, or 2.
        first: the element of its first byte's first digit.
        shifts: the bit at which each digit begins, in the order of the elements; empty where digits are of base 3, or
            where the bytes are canonical as they are.
        trits: the number of base-3 digits; 0 where digits are bits.
    """

    start: int
    num_bytes: int
    first: int
    shifts: tuple[int, ...] = ()
    trits: int = 0


@dataclass(frozen=True)
class Blocks:
    """A weight in blocks, each of some neighbouring elements of a row; K is a multiple of their number.

    Attributes:
        elements: per block.
        num_bytes: per block.
        runs: where the codes of a block lie.
    """

    elements: int
    num_bytes: int
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Columns:
    """A weight whose bytes, uint8 (ceil(N / 4), K), each hold a column of four rows.

    Attributes:
        shifts: the bit at which the code of each of the four rows begins.
        adjoining: whether the rows of byte row j are 4 j + n, with n from 0 to 3; else they are j + n * ceil(N / 4).
    """

    shifts: tuple[int, int, int, int]
    adjoining: bool


Stored = Blocks | Columns | str  # the last is a packing of ours, by its name
