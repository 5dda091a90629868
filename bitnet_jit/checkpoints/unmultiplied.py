"""Gemma's multipliers, which `load` has put into embedding and last norm, taken out of them again for `save`.

What is written is read and multiplied as the same numbers, or refused.
"""

import math

import torch

from bitnet_jit.checkpoints.building import multiplied
from bitnet_jit.checkpoints.decoder_names import EMBEDDING, FINAL_NORM
from bitnet_jit.checkpoints.formats.gemma3 import in_files
from bitnet_jit.checkpoints.formats.hf_floats import LESS_ONE
from bitnet_jit.checkpoints.formats.nearest import nearest
from bitnet_jit.errors import InvalidInput
from bitnet_jit.models.config import DecoderConfig

DTYPES = (torch.bfloat16, torch.float16, torch.float32)  # that an embedding may have had, the narrowest first


def unmultiplied(name: str, stored: str, weight: torch.Tensor, config: DecoderConfig) -> torch.Tensor:
    """Return a tensor of floats of a decoder as its files are to hold it but for its form.

    Args:
        name: of the tensor.
        stored: its name in the files, for errors.
        weight: on the CPU, as the decoder has it.
        config: the decoder's.

    Raises:
        InvalidInput: no numbers, multiplied, are these.
    """
    if not config.branch_norms or name not in (EMBEDDING, FINAL_NORM):
        return weight
    multiplier = in_files(config).multipliers.embedding
    if name == EMBEDDING:
        plain = table_before(weight, multiplier)
    else:
        plain = norm_before(weight.float(), 1.0 / multiplier) if config.tied_embeddings else weight
    if plain is None:
        raise InvalidInput(
            f"{stored}: no numbers are these when they are multiplied as Gemma's are; convert the model's files instead"
        )
    return plain


def table_before(weight: torch.Tensor, multiplier: float) -> torch.Tensor | None:
    """Return an embedding that `multiplied` makes that one, in the dtype that it makes it of; None where there is none.

    >>> table_before(torch.tensor([[3.0]], dtype=torch.float16), 8.0)
    tensor([[0.3750]], dtype=torch.float16)
    """
    wanted, others = weight.float(), []
    for dtype in dict.fromkeys((weight.dtype, *DTYPES)):
        plain = (wanted / multiplier).to(dtype)
        if dtype == torch.float32:
            plain = nearest(wanted, lambda table: table * multiplier, plain)
        again = multiplied(plain, multiplier)
        if torch.equal(again.float(), wanted):
            if again.dtype == weight.dtype:
                return plain
            others.append(plain)
    return others[0] if others else None


def norm_before(weight: torch.Tensor, multiplier: float) -> torch.Tensor | None:
    """Return a norm that, multiplied, is that one, and which less 1 is exact where one is; None where there is none."""
    guess = weight / multiplier
    plain = nearest(weight, lambda norm: norm * multiplier, guess)
    ends = (torch.full_like(guess, end) for end in (math.inf, -math.inf))
    for near in (guess, *(torch.nextafter(guess, end) for end in ends)):
        coarse = LESS_ONE.read(LESS_ONE.write(near))
        plain = torch.where(coarse * multiplier == weight, coarse, plain)
    return plain if torch.equal(plain * multiplier, weight) else None
