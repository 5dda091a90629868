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
from bitnet_jit.checkpoints.decoder_names import EMBEDDING, HEAD, LinearName, block_names
from bitnet_jit.checkpoints.ternary import TernaryWeight
from bitnet_jit.devices.huge_pages import CPU, HUGE_PAGES
from bitnet_jit.errors import InvalidInput
from bitnet_jit.generation.defaults import Defaults
from bitnet_jit.models.config import DecoderConfig
from bitnet_jit.quant.rotation import SignedBlocks

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
        block: inputs that a Hadamard transform mixes in each layer; 0: inputs are not rotated.
        packs_tables: whether embedding and head are ternary, too.

    Raises:
        InvalidInput: a layer's inputs are no multiple of four, or of the group size.
    """

    def __init__(self, config: DecoderConfig, group_size: int = 0, block: int = 0, packs_tables: bool = False) -> None:
        net = config.delta_net
        inner = config.hidden_size if net is None else net.value_features
        for features in (config.hidden_size, config.q_features, config.intermediate_size, inner):
            if features % 4 or (group_size and features % group_size):
                raise InvalidInput(f"config: {features} inputs are no multiple of four and of group_size={group_size}")
        self.config, self.group_size, self.oddities = config, group_size, Oddities()
        self.block, self.packs_tables = block, packs_tables
        self._rotations: dict[int, SignedBlocks] = {}
        blocks = (block_names(config, index) for index in range(config.num_layers))
        self._shapes = {name: shape for names in blocks for name, shape in names.floats(config)}

    def tokenizer(self) -> None:
        """Return None: there is no text."""

    def defaults(self) -> Defaults:
        """Return that nothing is said of sampling."""
        return Defaults()

    def pooling(self) -> None:
        """Return None: it is no embedding model."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Do nothing."""

    def holds_codes(self, name: str) -> bool:  # noqa: ARG002
        """Return whether embedding and head are ternary."""
        return self.packs_tables

    def dtype_of(self, name: str) -> torch.dtype:  # noqa: ARG002
        """Return the dtype of embeddings, heads and norms."""
        return torch.bfloat16

    def dense(self, name: str, device: torch.device = CPU) -> torch.Tensor:
        """Draw an embedding or head (vocab, hidden) bfloat16, a norm, or what a gated DeltaNet has besides."""
        rng = generator(name)
        if name in (EMBEDDING, HEAD):
            matrix = HUGE_PAGES.empty((self.config.vocab_size, self.config.hidden_size), torch.bfloat16)
            for rows in matrix.split(ROWS):  # so that no copy of the whole counts in a peak of memory
                drawn = torch.frombuffer(bytearray(rng.bytes(rows.numel())), dtype=torch.int8)
                rows.copy_(drawn.view(rows.shape)).mul_(EMBEDDING_STEP)
            return matrix.to(device)
        shape, part = self._shapes.get(name, (self.config.hidden_size,)), name.rsplit(".", 1)[-1]
        drawn_floats = torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))
        if part == "decay":
            return -drawn_floats.exp().to(device)
        if len(shape) == 2:
            return (drawn_floats / shape[1] ** 0.5).to(device)
        return (1 + 0.1 * drawn_floats).to(device, torch.bfloat16)

    def rotation(self, layer: LinearName) -> SignedBlocks | None:
        """Return the rotation of a layer's input, one for all layers of a width."""
        if not self.block:
            return None
        width = layer.in_features
        if width not in self._rotations:
            signs = generator(f"signs {width}").choice(np.array([-1, 1], np.float32), width)
            self._rotations[width] = SignedBlocks(torch.from_numpy(signs), self.block)
        return self._rotations[width]

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
        scale, rotation = torch.from_numpy(np.asarray(w_scale)), self.rotation(layer)
        return TernaryWeight(out, scale, None, layer.in_features, self.group_size, rotation=rotation)


def generator(name: str) -> np.random.Generator:
    """Return the random numbers of a tensor."""
    return np.random.default_rng([SEED, zlib.crc32(name.encode())])
