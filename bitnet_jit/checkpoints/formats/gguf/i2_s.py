"""microsoft's I2_S: codes of a whole tensor, then one float32 that multiplies, and 28 bytes that mean nothing.

Three layouts stand under one id, and nothing in a file tells them apart; nor does the histogram of the codes. A model
that is read in the wrong one writes garbage, at times fluently.

| variant | written by                                               | byte p of a block holds         |
|---------|----------------------------------------------------------|---------------------------------|
| x86     | llama-quantize on x86, the converters, microsoft's files | elements p + 0, 32, 64, 96      |
| arm     | llama-quantize on ARM                                    | elements p + 0, 16, 32, 48      |
| rows4   | llama-quantize on x86, built without ACT_PARALLEL        | column p of four adjoining rows |

The first of a byte's elements stands in bits 7 and 6, the last in bits 1 and 0.
"""

import torch

from bitnet_jit.checkpoints.checks import CodeCount
from bitnet_jit.checkpoints.formats.decoding import decode
from bitnet_jit.packing.stored import Blocks, Columns, Run, Stored

HIGH_FIRST = (6, 4, 2, 0)
X86 = Blocks(128, 32, (Run(0, 32, 0, HIGH_FIRST),))
ARM = Blocks(64, 16, (Run(0, 16, 0, HIGH_FIRST),))
STORED: dict[str, Stored] = {"x86": X86, "arm": ARM, "rows4": Columns(HIGH_FIRST, adjoining=True)}
VARIANTS = tuple(STORED)
USUAL = "x86"


def read_i2_s(
    content: torch.Tensor, variant: str, out: torch.Tensor, in_features: int
) -> tuple[torch.Tensor, CodeCount]:
    """Fill `out`, canonical i2 (N, ceil(K / 4)), from the bytes of a tensor; return its scale, float32 (), and counts.

    Raises:
        ValueError: the variant does not hold such a shape.
    """
    stored, num_bytes = STORED[variant], len(out) * in_features // 4
    if isinstance(stored, Blocks) and in_features % stored.elements:
        raise ValueError(
            f"I2_S of {variant} with inputs in multiples of {stored.elements}, found {in_features}: another variant?"
        )
    if isinstance(stored, Columns) and len(out) % 4:
        raise ValueError(f"I2_S of {variant} with rows in multiples of 4, found {len(out)}: another variant?")
    scale = content[num_bytes : num_bytes + 4].clone().view(torch.float32)[0]
    return scale, decode(stored, content[:num_bytes], out, in_features)
