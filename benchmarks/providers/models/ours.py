"""Our decoder: `generate` for a first token, `stream` for one text, and for several the steps that `generate` makes.

Variants of it hold the ternary weights in another packing, or quantize activations otherwise.
"""

import dataclasses
from collections.abc import Callable, Iterator
from itertools import islice

import torch

from benchmarks.harness.models.bounds import Storage
from benchmarks.harness.models.shapes import SHAPES, ModelShape
from benchmarks.harness.models.turns import seconds_of
from bitnet_jit.checkpoints import loading
from bitnet_jit.generation import loop
from bitnet_jit.generation.decoder import Decoder
from bitnet_jit.generation.sampling import Sampling
from bitnet_jit.nn.modules import replace
from bitnet_jit.nn.packed_bit_linear import PackedBitLinear
from bitnet_jit.packing import get_format


class OurModel:
    """A decoder as a contender.

    Args:
        name: of `name_of`.
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
        batch, limit = len(ids), 1 + most_steps
        tokens = self.decoder.stream(ids, max_new_tokens=limit) if batch == 1 else written(self.decoder, ids, limit)
        for _ in islice(tokens, batch):
            pass

        def write(steps: int) -> float:
            count = 0

            def run() -> None:
                nonlocal count
                count = sum(1 for _ in islice(tokens, steps * batch))

            seconds = seconds_of(run)
            if count != steps * batch:
                raise RuntimeError(f"{self.name}: wrote {count} tokens instead of {steps * batch}")
            return seconds / steps

        return write

    def close(self) -> None:
        """Drop the decoder."""
        del self.decoder


def build_decoder(shape: ModelShape, device: str, head: str) -> Decoder:
    """Build a decoder of a shape's weights as `load` does: float32 on the CPU, bfloat16 elsewhere."""
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    decoder = loading.build(shape.open_reader(), torch.device(device), dtype, lambda *_: None, head)
    decoder.config = dataclasses.replace(decoder.config, eos_ids=())  # every text is as long as the others
    return decoder


def written(decoder: Decoder, ids: torch.Tensor, limit: int) -> Iterator[object]:
    """Continue texts (B, T) by `limit` tokens each as `generate` does, and yield for each token of each text."""
    prompts = ids.tolist()
    continuation, _ = loop.begin(decoder, prompts, [limit] * len(prompts), Sampling(), (), None)
    try:
        yield from continuation.run()
    finally:
        decoder.idle_runner.give(continuation.close())


def varied(decoder: Decoder, packing: str, activation: str) -> Decoder:
    """Pack the ternary layers of a decoder anew where they are packed otherwise, and set their activation, in place."""

    def vary(name: str, layer: PackedBitLinear) -> PackedBitLinear:
        if packing == layer.format:
            layer.activation = activation
            return layer
        w_q, w_scale = layer.unpack()
        return PackedBitLinear.from_codes(w_q, w_scale, layer.bias, layer.group_size, activation, packing)

    return replace(decoder, (PackedBitLinear,), vary)


def storage_of(decoder: Decoder, group_size: int, head: str, packing: str) -> Storage:
    """Return how a decoder holds its parts: the cache as its pages are, the head as asked or as in the checkpoint."""
    dense = decoder.embedding if decoder.head is None else decoder.head
    bits = 8 / get_format(packing).codes_per_byte + (32 / group_size if group_size else 0)
    return Storage(bits, 1 if head == "int8" else dense.element_size(), decoder.dtype.itemsize)


def name_of(packing: str, activation: str) -> str:
    """Return the name of a variant in tables.

    >>> name_of("i2", "a8"), name_of("t5", "a8"), name_of("i2", "a8g")
    ('bitnet_jit', 'bitnet_jit_t5', 'bitnet_jit_a8g')
    """
    return "_".join(["bitnet_jit", *[word for word in (packing, activation) if word not in ("i2", "a8")]])


def unsupported_reason(shape: ModelShape, packing: str, activation: str) -> str | None:
    """Return None, or why weights of a shape cannot have a packing or an activation."""
    if packing == "t5" and shape.group_size:
        return "t5 has no scales of groups"
    return "a8g needs scales of groups" if activation == "a8g" and not shape.group_size else None


def prepare(packing: str, activation: str, shape: ModelShape, device: str, head: str) -> Callable[[], OurModel]:
    """Return a function that makes the contender; the package is warm then, so that its peak of memory is the model's.

    Raises:
        ValueError: the weights cannot have such a packing or activation.
    """
    if reason := unsupported_reason(shape, packing, activation):
        raise ValueError(reason)
    small = SHAPES["small-qwen3" if shape.group_size else "small"]
    varied(build_decoder(small, device, head), packing, activation).generate([1], max_new_tokens=2)

    def make() -> OurModel:
        decoder = varied(build_decoder(shape, device, head), packing, activation)
        return OurModel(name_of(packing, activation), decoder, storage_of(decoder, shape.group_size, head, packing))

    return make
