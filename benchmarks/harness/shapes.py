"""The weights that benchmarks run on, N x K: the layers of the models that people run, square ones, and ragged ones."""

import argparse
from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """A weight: out_features x in_features, N x K."""

    out_features: int
    in_features: int

    def __str__(self) -> str:
        return f"{self.out_features}x{self.in_features}"


BITNET_2B = (Shape(2560, 2560), Shape(640, 2560), Shape(6912, 2560), Shape(2560, 6912))  # microsoft/bitnet-b1.58-2B-4T
SQUARE = (Shape(4096, 4096), Shape(8192, 8192))
RAGGED = (Shape(2559, 2561), Shape(1000, 777))  # nothing here is a multiple of anything
SMALL = (Shape(768, 768),)

NORMS = (Shape(2560, 2560), Shape(2560, 6912), Shape(8192, 8192))  # features: what BitNet 2B normalizes, and 8192

PROJECTIONS = (  # of the layers that people run on GPUs, q, k and v or gate and up as one
    Shape(2560, 2560),
    Shape(640, 2560),
    Shape(3840, 2560),
    Shape(13824, 2560),
    Shape(2560, 6912),
    Shape(4096, 4096),
    Shape(14336, 4096),
    Shape(4096, 14336),
    Shape(8192, 8192),
    Shape(28672, 8192),
)

DEFAULT = (Shape(2560, 2560), Shape(6912, 2560), Shape(2560, 6912), *SQUARE)
GROUPS = {
    "default": DEFAULT,
    "bitnet-2b": BITNET_2B,
    "square": SQUARE,
    "ragged": RAGGED,
    "small": SMALL,
    "norms": NORMS,
    "gpu": PROJECTIONS,
}


def parse_shapes(text: str) -> tuple[Shape, ...]:
    """Return the shapes of a group by its name, or one shape: "2560x6912" is 2560 outputs and 6912 inputs."""
    if text in GROUPS:
        return GROUPS[text]
    sides = text.split("x")
    if len(sides) != 2 or not all(side.isdecimal() and int(side) > 0 for side in sides):
        raise argparse.ArgumentTypeError(
            f"expected OUTxIN such as 2560x6912 or one of {', '.join(GROUPS)}, got {text!r}"
        )
    return (Shape(int(sides[0]), int(sides[1])),)
