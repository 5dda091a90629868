"""Random weights of any shape, read as a checkpoint is: the same values for the same name, made quickly.

Codes are drawn as bytes of four, each of -1, 0 and 1 about a third of them. Scales are float16 numbers, so that every
file format holds the same weights, and such that an output is about as large as an input. Embeddings are products of an
int8 with a power of two, which bfloat16 and float16 hold exactly.
"""

import zlib
from types import TracebackType
from typing import Self

import numpy as np
import torch

from bitnet_jit.checkpoints.checks import Oddities
from bitnet_jit.checkpoints.decoder_names import EMBEDDING, HEAD, LinearName
from bitnet_jit.checkpoints.ternary import TernaryWeight
from bitnet_jit.devices.huge_pages import CPU, HUGE_PAGES
from bitnet_jit.errors import InvalidInput
from bitnet_jit.models.config import DecoderConfig

SEED = 20261127
TERNARY_BYTES = [byte for byte in range(256) if all(byte >> 2 * i & 3 < 3 for i in range(4))]  # 81
TABLE = bytes(TERNARY_BYTES[byte % len(TERNARY_BYTES)] for byte in range(256))
DENSITY = 2 / 3  # of codes that are not zero
ROWS = 4096  # of an embedding, drawn at a time
PIECE_BYTES = 1 << 20  # of codes, likewise
EMBEDDING_STEP = 2.0**-11  # times int8: a deviation of 0.036


class RandomReader:
    """A `Reader` of a model that is on no disk.

    Args:
        config: the architecture.
        group_size: inputs that share a scale; 0 is one scale per weight.

    Raises:
        InvalidInput: a layer's inputs are no multiple of four, or of the group size.
    """

    def __init__(self, config: DecoderConfig, group_size: int = 0) -> None:
        for features in (config.hidden_size, config.q_features, config.intermediate_size):
            if features % 4 or (group_size and features % group_size):
                raise InvalidInput(f"config: {features} inputs are no multiple of four and of group_size={group_size}")
        self.config, self.group_size, self.oddities = config, group_size, Oddities()

    def tokenizer(self) -> None:
        """Return None: there is no text."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Do nothing."""

    def holds_codes(self, name: str) -> bool:  # noqa: ARG002
        """Return that embedding and head are floats."""
        return False

    def dtype_of(self, name: str) -> torch.dtype:  # noqa: ARG002
        """Return the dtype of embeddings, heads and norms."""
        return torch.bfloat16

    def dense(self, name: str, device: torch.device = CPU) -> torch.Tensor:
        """Draw an embedding or head (vocab, hidden) bfloat16, or a norm, whose name ends in "norm"."""
        rng = generator(name)
        if name in (EMBEDDING, HEAD):
            matrix = HUGE_PAGES.empty((self.config.vocab_size, self.config.hidden_size), torch.bfloat16)
            for rows in matrix.split(ROWS):  # so that no copy of the whole counts in a peak of memory
                drawn = torch.frombuffer(bytearray(rng.bytes(rows.numel())), dtype=torch.int8)
                rows.copy_(drawn.view(rows.shape)).mul_(EMBEDDING_STEP)
            return matrix.to(device)
        weight = 1 + 0.1 * rng.standard_normal(self.norm_features(name), dtype=np.float32)
        return torch.from_numpy(weight).to(device, torch.bfloat16)

    def norm_features(self, name: str) -> int:
        """Return the width of a norm."""
        if name.endswith(("q_norm", "k_norm")):
            return self.config.head_dim
        if not name.endswith("sub_norm"):
            return self.config.hidden_size
        return self.config.q_features if ".attention." in name else self.config.intermediate_size

    def ternary(self, layer: LinearName, out: torch.Tensor) -> TernaryWeight:
        """Draw the codes of a layer into `out`, uint8 (N, K / 4), and its scale."""
        rng = generator(layer.name)
        for piece in out.view(-1).split(PIECE_BYTES):  # so that no copy of the whole counts in a peak of memory
            drawn = bytearray(rng.bytes(len(piece)).translate(TABLE))
            piece.copy_(torch.frombuffer(drawn, dtype=torch.uint8))
        groups = layer.in_features // self.group_size if self.group_size else 0
        shape = (layer.out_features, groups) if groups else ()
        usual = (layer.in_features * DENSITY) ** -0.5
        w_scale = (usual * rng.uniform(0.75, 1.25, shape)).astype(np.float16).astype(np.float32)
        return TernaryWeight(out, torch.from_numpy(np.asarray(w_scale)), None, layer.in_features, self.group_size)


def generator(name: str) -> np.random.Generator:
    """Return the random numbers of a tensor."""
    return np.random.default_rng([SEED, zlib.crc32(name.encode())])
