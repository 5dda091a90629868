"""Our decoder: `generate` for a first token, and the loop that `generate` and `stream` run for those behind it.

Variants of it hold the ternary weights in another packing, or keys and values in another dtype, or quantize activations
otherwise.
"""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import torch

from benchmarks.harness.models.bounds import Storage
from benchmarks.harness.models.profile import outside_of_recorded, outside_share
from benchmarks.harness.models.shapes import SHAPES, ModelShape
from benchmarks.harness.models.turns import seconds_of
from bitnet_jit.checkpoints import loading
from bitnet_jit.devices.kinds import kind_of
from bitnet_jit.devices.threads import THREADS
from bitnet_jit.generation import loop
from bitnet_jit.generation.continuation import Continuation
from bitnet_jit.generation.decoder import Decoder
from bitnet_jit.generation.sampling import Sampling
from bitnet_jit.models.packed_table import PackedTable
from bitnet_jit.nn.modules import replace
from bitnet_jit.nn.packed_bit_linear import PackedBitLinear
from bitnet_jit.packing import get_format


class OurModel:
    """A decoder as a contender.

    Args:
        name: of its variant.
        decoder: of `build_decoder`.
        storage: how it holds its parts.
    """

    def __init__(self, name: str, decoder: Decoder, storage: Storage) -> None:
        self.name, self.decoder, self.storage = name, decoder, storage
        self._continuation: Continuation | None = None  # of the last text

    def set_threads(self, threads: int) -> None:
        torch.set_num_threads(threads)

    def read(self, ids: torch.Tensor) -> None:
        """Read prompts (B, T) and choose the first token of each."""
        self.decoder.generate(ids, max_new_tokens=1)

    def begin(self, ids: torch.Tensor, most_steps: int) -> Callable[[int], float]:
        """Read prompts (B, T); return a function that writes tokens and gives the seconds of each."""
        batch, prompts = len(ids), ids.tolist()
        limits = [1 + most_steps] * batch
        self._continuation, _ = loop.begin(self.decoder, prompts, limits, Sampling(), (), None)
        tokens = written(self.decoder, self._continuation)
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

    def outside_share(self, write: Callable[[int], float], steps: int, step_seconds: float) -> float | None:
        """Return the share of a step outside of memory-bound kernels: of a recorded one by the clock, else profiled."""
        if recorded := self.recorded():
            return outside_of_recorded(recorded, steps, step_seconds)
        return outside_share(write, steps, str(self.decoder.device), step_seconds)

    def recorded(self) -> list[tuple[str, Callable[[], object]]]:
        """Return the ops of the last text's recorded step, with as many threads as are set; none if there is none."""
        if self._continuation is None or not kind_of(self.decoder.device).records:
            return []
        runner, rows = self._continuation._runner, len(self._continuation._texts)
        step = runner._decode._steps.get((rows, THREADS.get()))
        recorder = None if step is None else step._replay.recorder
        return [] if recorder is None else list(zip(recorder.names, recorder.steps, strict=True))

    def close(self) -> None:
        """Drop the decoder."""
        del self.decoder, self._continuation


@dataclass(frozen=True)
class Variant:
    """How our decoder holds a model.

    Attributes:
        packing: of the ternary weights.
        activation: of the ternary layers.
        cache: of keys and values, as `bitnet_jit.load` takes it.
    """

    packing: str = "i2"
    activation: str = "a8"
    cache: str = "auto"

    @property
    def name(self) -> str:
        """Return the name in tables.

        >>> Variant().name, Variant("t5").name, Variant("i2", "a8g", "int8").name
        ('bitnet_jit', 'bitnet_jit_t5', 'bitnet_jit_a8g_kv_int8')
        """
        cache = "" if self.cache == "auto" else f"kv_{self.cache}"
        return "_".join(
            ["bitnet_jit", *(w for w in (self.packing, self.activation, cache) if w not in ("i2", "a8", ""))]
        )

    def unsupported_reason(self, shape: ModelShape) -> str | None:
        """Return None, or why weights of a shape cannot have this packing or this activation."""
        if self.packing == "t5" and shape.group_size:
            return "t5 has no scales of groups"
        return "a8g needs scales of groups" if self.activation == "a8g" and not shape.group_size else None


def build_decoder(shape: ModelShape, device: str, head: str, cache: str = "auto") -> Decoder:
    """Build a decoder of a shape's weights as `load` does: float32 on the CPU, bfloat16 elsewhere.

    Raises:
        ValueError: the device has no such cache.
    """
    dtype, place = torch.float32 if device == "cpu" else torch.bfloat16, torch.device(device)
    kept = loading.kv_dtype(cache, dtype, place)
    decoder = loading.build(shape.open_reader(), place, dtype, lambda *_: None, head, kept)
    decoder.config = dataclasses.replace(decoder.config, eos_ids=())  # every text is as long as the others
    return decoder


def written(decoder: Decoder, continuation: Continuation) -> Iterator[object]:
    """Continue texts as `generate` and `stream` do, and yield for each token of each text."""
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
    scales = 4 / decoder.config.head_dim if decoder.cache_dtype == torch.int8 else 0  # float32, one per head and token
    head_bytes = bits / 8 if isinstance(dense, PackedTable) else dense.element_size()
    return Storage(bits, 1 if head == "int8" else head_bytes, decoder.cache_dtype.itemsize + scales)


def prepare(variant: Variant, shape: ModelShape, device: str, head: str) -> Callable[[], OurModel]:
    """Return a function that makes the contender; the package is warm then, so that its peak of memory is the model's.

    Raises:
        ValueError: the weights cannot have such a packing or activation, or the device no such cache.
    """
    if reason := variant.unsupported_reason(shape):
        raise ValueError(reason)

    def build(shape: ModelShape) -> Decoder:
        return varied(build_decoder(shape, device, head, variant.cache), variant.packing, variant.activation)

    build(SHAPES["small-qwen3" if shape.group_size else "small"]).generate([1], max_new_tokens=2)

    def make() -> OurModel:
        decoder = build(shape)
        return OurModel(variant.name, decoder, storage_of(decoder, shape.group_size, head, variant.packing))

    return make
