"""Our decoder, by its public calls: `stream` for one text, `generate` for several and for a first token."""

import dataclasses
import inspect
from collections.abc import Callable
from itertools import islice

import torch

from benchmarks.harness.models.bounds import Storage
from benchmarks.harness.models.shapes import SHAPES, ModelShape
from benchmarks.harness.models.turns import seconds_of
from bitnet_jit.checkpoints import loading
from bitnet_jit.generation.decoder import Decoder
from bitnet_jit.nn.modules import replace
from bitnet_jit.nn.packed_bit_linear import PackedBitLinear
from bitnet_jit.packing import get_format

HEADS = ("checkpoint", "int8")


class OurModel:
    """A decoder as a contender.

    Args:
        name: as in --contenders.
        decoder: of `build_decoder`.
        storage: how it holds its parts.
    """

    is_profiled = True

    def __init__(self, name: str, decoder: Decoder, storage: Storage) -> None:
        self.name, self.decoder, self.storage = name, decoder, storage

    def set_threads(self, threads: int) -> None:
        torch.set_num_threads(threads)

    def read(self, ids: torch.Tensor) -> None:
        """Read prompts (B, T) and choose the first token of each."""
        self.decoder.generate(ids, max_new_tokens=1)

    def begin(self, ids: torch.Tensor, most_steps: int) -> Callable[[int], float]:
        """Read prompts (B, T); return a function that writes tokens and gives the seconds of each."""
        return self._stream(ids, most_steps) if len(ids) == 1 else self._generate(ids)

    def _stream(self, ids: torch.Tensor, most_steps: int) -> Callable[[int], float]:
        tokens = self.decoder.stream(ids, max_new_tokens=1 + most_steps)
        next(tokens)

        def write(steps: int) -> float:
            written: list[int] = []
            seconds = seconds_of(lambda: written.extend(islice(tokens, steps)))
            if len(written) != steps:
                raise RuntimeError(f"{self.name}: wrote {len(written)} tokens instead of {steps}")
            return seconds / steps

        return write

    def _generate(self, ids: torch.Tensor) -> Callable[[int], float]:
        """Time texts as a whole; the least time to the first token, of all calls so far, is taken off."""
        least = min(seconds_of(lambda: self.read(ids)) for _ in range(2))

        def write(steps: int) -> float:
            nonlocal least
            least = min(least, seconds_of(lambda: self.read(ids)))
            whole = seconds_of(lambda: self.decoder.generate(ids, max_new_tokens=1 + steps))
            # on a machine too busy to tell, the mean with the first token, which takes longer than the others
            return (whole - least) / steps if whole > least else whole / (1 + steps)

        return write

    def close(self) -> None:
        """Drop the decoder."""
        del self.decoder


def build_decoder(shape: ModelShape, device: str, head: str, format: str = "i2") -> Decoder:
    """Build a decoder of a shape's weights as `load` does: float32 on the CPU, bfloat16 elsewhere.

    Raises:
        ValueError: the loader of this version has no such head.
    """
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    reader, arguments = shape.open_reader(), [torch.device(device), dtype, lambda *_: None]
    if "head" in inspect.signature(loading.build).parameters:
        decoder = loading.build(reader, *arguments, head=head)
    elif head == "checkpoint":
        decoder = loading.build(reader, *arguments)
    else:
        raise ValueError(f"this version of bitnet_jit has no head={head!r}")
    decoder.config = dataclasses.replace(decoder.config, eos_ids=())  # every text is as long as the others
    return decoder if format == "i2" else repacked(decoder, format)


def repacked(decoder: Decoder, format: str) -> Decoder:
    """Pack the ternary layers of a decoder anew, in place."""

    def repack(name: str, layer: PackedBitLinear) -> PackedBitLinear:
        w_q, w_scale = layer.unpack()
        return PackedBitLinear.from_codes(w_q, w_scale, layer.bias, layer.group_size, format=format)

    return replace(decoder, (PackedBitLinear,), repack)


def storage_of(decoder: Decoder, group_size: int, head: str, format: str) -> Storage:
    """Return how a decoder holds its parts: the cache in its dtype, the head as asked or as in the checkpoint."""
    dense = decoder.embedding if decoder.head is None else decoder.head
    bits = 8 / get_format(format).codes_per_byte + (32 / group_size if group_size else 0)
    return Storage(bits, 1 if head == "int8" else dense.element_size(), decoder.dtype.itemsize)


def prepare(name: str, format: str, shape: ModelShape, device: str, head: str) -> Callable[[], OurModel]:
    """Return a function that makes the contender; the package is warm then, so that its peak of memory is the model's.

    Raises:
        ValueError: the loader of this version has no such head, or the packing no such scales.
    """
    if format == "t5" and shape.group_size:
        raise ValueError("t5 has no scales of groups")
    build_decoder(SHAPES["tiny"], device, head, format).generate([1], max_new_tokens=2)

    def make() -> OurModel:
        decoder = build_decoder(shape, device, head, format)
        return OurModel(name, decoder, storage_of(decoder, shape.group_size, head, format))

    return make
