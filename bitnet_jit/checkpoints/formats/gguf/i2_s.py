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

from bitnet_jit.checkpoints.formats.gguf.runs import Run, to_i2
from bitnet_jit.checkpoints.formats.word_digits import as_words
from bitnet_jit.packing.i2 import transposed

HIGH_FIRST = (6, 4, 2, 0)
BLOCKS = {"x86": (128, Run(0, 32, 0, HIGH_FIRST)), "arm": (64, Run(0, 16, 0, HIGH_FIRST))}
VARIANTS = (*BLOCKS, "rows4")
USUAL = "x86"


def read_i2_s(content: torch.Tensor, variant: str, out: torch.Tensor, in_features: int) -> torch.Tensor:
    """Fill `out`, canonical i2 (N, ceil(K / 4)), from the bytes of a tensor; return its scale, float32 ().

    Raises:
        ValueError: the variant does not hold such a shape.
    """
    num_bytes = len(out) * in_features // 4
    codes, scale = content[:num_bytes], content[num_bytes : num_bytes + 4].clone().view(torch.float32)[0]
    if variant == "rows4":
        read_rows(codes, out, in_features)
        return scale
    block, run = BLOCKS[variant]
    if in_features % block:
        raise ValueError(
            f"I2_S of {variant} with inputs in multiples of {block}, found {in_features}: another variant?"
        )
    to_i2(codes.view(-1, run.num_bytes), [run], out.view(-1, block // 4))
    return scale


def read_rows(codes: torch.Tensor, out: torch.Tensor, in_features: int) -> None:
    """Fill `out` from bytes that each hold one column of four rows."""
    if len(out) % 4:
        raise ValueError(f"I2_S of rows4 with rows in multiples of 4, found {len(out)}: another variant?")
    words = as_words(codes.view(-1, in_features))
    turned = transposed(words).view(torch.uint8).view(*words.shape, 4)
    for place, shift in enumerate(HIGH_FIRST):
        out[place::4] = turned[:, :, shift // 2]
