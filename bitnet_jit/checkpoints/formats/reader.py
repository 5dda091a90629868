"""`Reader`: the protocol by which a model of any format is read, in our terms.

    if Format.recognizes(path):
        reader = Format(path)                      # the description is read and checked; no tensor yet
        tokenizer = reader.tokenizer()
        with reader:                               # the files are open; every tensor's name, shape and dtype is checked
            embedding = reader.dense("embedding")
            weight = reader.ternary(layer, out)    # codes go straight into `out`, which may be rows of a larger weight

A reader promises:

* Names are as in decoder_names.py, codes are canonical `i2`, scales multiply, biases are added last.
* Every claim of a file is checked before it is used: no memory is asked for that the machine lacks, and all tensors are
  checked before the first is read. `CheckpointError` names file, tensor or field, expectation and finding.
* Each tensor is read once, when it is asked for, by position and never mapped, into memory of its own on its device.
* A decoder quantizes activations to int8, one scale per row: a model made for other activations is refused.
* Unlikely values are noted in `oddities`; the caller decides whether to warn.
"""

from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Protocol, Self

import torch

from bitnet_jit.checkpoints.checks import Oddities
from bitnet_jit.checkpoints.decoder_names import LinearName
from bitnet_jit.checkpoints.ternary import TernaryWeight
from bitnet_jit.devices.huge_pages import CPU
from bitnet_jit.generation.defaults import Defaults
from bitnet_jit.generation.tokenizer import Tokenizer
from bitnet_jit.models.config import DecoderConfig
from bitnet_jit.quant.rotation import SignedBlocks


class Chat(NamedTuple):
    """What a model's files say of chats.

    Attributes:
        source: the template in Jinja, or None.
        special: names of special tokens, such as bos_token, and their texts.
    """

    source: str | None
    special: dict[str, str]


class StoredAs(NamedTuple):
    """A tensor as a file holds it: its own name, type and shape there, and its bytes."""

    name: str
    type: str
    shape: tuple[int, ...]
    num_bytes: int


class Reader(Protocol):
    """One model in one format; a context manager that opens its tensors and closes them.

    Args:
        path: a file or folder that the format recognizes.

    Attributes:
        config: the architecture, as the model's files describe it.
        oddities: unlikely scales and weights of the layers read so far.

    Raises:
        CheckpointError: the description is missing or damaged, or describes a model that we cannot run; on entering,
            the tensors are not exactly the model's.
    """

    def __init__(self, path: Path) -> None: ...

    @staticmethod
    def recognizes(path: Path) -> bool:
        """Return whether a path holds a model of this format, by its kind, name or first bytes alone."""
        ...

    @staticmethod
    def weight_files(path: Path) -> list[Path]:
        """Return the files with the weights, in their order; CheckpointError where one is missing."""
        ...

    @staticmethod
    def contents(path: Path) -> list[StoredAs]:
        """Return every tensor of a model's files, of whatever architecture; CheckpointError where they are damaged."""
        ...

    @staticmethod
    def chat(path: Path) -> Chat:
        """Return what the model's files say of chats; CheckpointError where they cannot be read."""
        ...

    @property
    def config(self) -> DecoderConfig: ...

    @property
    def description(self) -> str:
        """Return which format was found, in words."""
        ...

    @property
    def oddities(self) -> Oddities: ...

    @property
    def bytes_read(self) -> int:
        """Return how many bytes of tensors have been read so far."""
        ...

    def tokenizer(self) -> Tokenizer | None:
        """Return the tokenizer that comes with the model, or None."""
        ...

    def defaults(self) -> Defaults:
        """Return how the model's files would have tokens chosen; CheckpointError where a value is out of range."""
        ...

    def pooling(self) -> str | None:
        """Return how texts become vectors, one of POOLINGS, None where no file says; CheckpointError for other ways."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def holds_codes(self, name: str) -> bool:
        """Return whether the embedding or the head is stored in ternary codes, to be read as a layer is."""
        ...

    def dtype_of(self, name: str) -> torch.dtype:
        """Return the dtype in which `dense` reads a tensor."""
        ...

    def dense(self, name: str, device: torch.device = CPU) -> torch.Tensor:
        """Read an embedding, head or norm, finite and in its own dtype, onto a device."""
        ...

    def rotation(self, layer: LinearName) -> SignedBlocks | None:
        """Return the rotation of a ternary layer's input, None where it has none; no codes are read."""
        ...

    def ternary(self, layer: LinearName, out: torch.Tensor) -> TernaryWeight:
        """Read a ternary layer, its codes into `out`, uint8 (N, ceil(K / 4)) contiguous on any device; it is kept."""
        ...
