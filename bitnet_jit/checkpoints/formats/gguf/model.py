"""`GgufModel`: the reader of GGUF files."""

from pathlib import Path
from types import TracebackType

import numpy as np
import torch

from bitnet_jit.checkpoints.checks import CodeCount, Oddities, check_codes, check_finite
from bitnet_jit.checkpoints.decoder_names import LinearName, block_names, outer_shapes
from bitnet_jit.checkpoints.formats.decoding import decode
from bitnet_jit.checkpoints.formats.gguf.chat import read_chat
from bitnet_jit.checkpoints.formats.gguf.config import ACTIVATION, read_config, read_kind, read_pooling
from bitnet_jit.checkpoints.formats.gguf.delta_net import heads_in_order, is_behind_heads, reorder_floats, reorder_layer
from bitnet_jit.checkpoints.formats.gguf.file import GgufFile
from bitnet_jit.checkpoints.formats.gguf.found import file_of, is_gguf
from bitnet_jit.checkpoints.formats.gguf.hadamard import PREFIX, read_hadamard
from bitnet_jit.checkpoints.formats.gguf.i2_s import USUAL, read_i2_s
from bitnet_jit.checkpoints.formats.gguf.keys import Keys
from bitnet_jit.checkpoints.formats.gguf.names import gguf_layer, gguf_tensor
from bitnet_jit.checkpoints.formats.gguf.parts import GgufParts, parts_of
from bitnet_jit.checkpoints.formats.gguf.rope import rope_tensors
from bitnet_jit.checkpoints.formats.gguf.row_order import in_halves, reordered
from bitnet_jit.checkpoints.formats.gguf.tokenizer import read_tokenizer
from bitnet_jit.checkpoints.formats.gguf.types import I2_S
from bitnet_jit.checkpoints.formats.reader import Chat, StoredAs
from bitnet_jit.checkpoints.formats.sampling_keys import defaults_of_keys
from bitnet_jit.checkpoints.ternary import TernaryWeight
from bitnet_jit.devices.huge_pages import CPU
from bitnet_jit.errors import CheckpointError, InvalidInput
from bitnet_jit.generation.defaults import Defaults
from bitnet_jit.generation.tokenizer import Tokenizer
from bitnet_jit.models.config import DecoderConfig, DeltaNetConfig
from bitnet_jit.quant.rotation import SignedBlocks
from bitnet_jit.quant.ternary import coarsest_scale

MAX_NAMED = 3  # tensors that an error names
SLICE_BLOCKS = 2**14  # of a quantized embedding, decoded at a time


class GgufModel:
    """A model in a GGUF file; see `Reader`.

    Attributes:
        i2_s: the variant as which I2_S is read: one of VARIANTS in i2_s.py; nothing in the file tells it.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.i2_s = file_of(path), USUAL
        with GgufParts(self.path) as self.file:
            self.keys = Keys(self.file.metadata, str(self.path))
            self.kind = read_kind(self.keys)
            divisors = self._divisors()
            tensors, unread = self.file.tensors, self.file.unread
            shapes = {name: tensor.shape for name, tensor in tensors.items()} | dict.fromkeys(unread, ())
            self.types = sorted({tensor.type.name for tensor in tensors.values() if tensor.type.is_ternary})
            self.config: DecoderConfig = read_config(self.keys, shapes, divisors)
            self.hadamard = read_hadamard(self.keys, shapes)
        self.oddities = Oddities()

    def _divisors(self) -> torch.Tensor | None:
        """Read the divisors of rotary frequencies, None where there are none."""
        name = rope_tensors(self.keys, self.keys.text("general.architecture", ""))[0]
        return self.file.read(name).float() if name in self.file.tensors else None

    @staticmethod
    def recognizes(path: Path) -> bool:
        """Return whether a path is a GGUF file, or a folder with one."""
        return is_gguf(path)

    @staticmethod
    def weight_files(path: Path) -> list[Path]:
        """Return the file, or its parts."""
        return parts_of(file_of(path))

    @staticmethod
    def contents(path: Path) -> list[StoredAs]:
        """Return every tensor of the file or its parts; one of a type that is not read has no size."""
        with GgufParts(file_of(path)) as file:
            known = [
                StoredAs(name, at.type.name, at.shape, at.type.size(torch.Size(at.shape).numel()))
                for name, at in file.tensors.items()
            ]
            return known + [StoredAs(name, of, (), 0) for name, of in file.unread.items()]

    @staticmethod
    def chat(path: Path) -> Chat:
        """Return what the file's metadata says of chats."""
        with GgufFile(parts_of(file_of(path))[0]) as file:
            return read_chat(Keys(file.metadata, str(file.path)))

    def tokenizer(self) -> Tokenizer | None:
        """Return the tokenizer that the file holds, or None."""
        return read_tokenizer(self.keys, self.keys.text("general.architecture"), self.path)

    def defaults(self) -> Defaults:
        """Return what the file's metadata says of sampling."""
        return defaults_of_keys(self.keys.values)

    def pooling(self) -> str | None:
        """Return what the file's metadata says of pooling."""
        return read_pooling(self.keys)

    @property
    def description(self) -> str:
        """Return which format was found, in words."""
        types = [f"{name} (as {self.i2_s})" if name == I2_S.name else name for name in self.types]
        rotated = "" if self.hadamard is None else f", inputs rotated in blocks of {self.hadamard.block}"
        return f"a GGUF file, {self.keys.text('general.architecture')} in {', '.join(types)}{rotated}"

    @property
    def bytes_read(self) -> int:
        """Return how many bytes of tensors have been read so far."""
        return self.file.bytes_read

    def __enter__(self) -> "GgufModel":
        self.file.reopen()
        try:
            self._check_tensors()
        except CheckpointError:
            self.file.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.close()

    def _check_tensors(self) -> None:
        """Raise CheckpointError unless the file holds exactly the model's tensors, with the right shapes and types."""
        expected = {self.require(self.stored(name), shape) for name, shape in outer_shapes(self.config).items()}
        for index in range(self.config.num_layers):
            names = block_names(self.config, index)
            expected |= {self.require(self.stored(name), shape) for name, shape in names.floats(self.config)}
            expected.update(name for layers in names.linears for layer in layers for name in self.require_layer(layer))
        expected.update(rope_tensors(self.keys, self.keys.text("general.architecture")))
        there = self.file.tensors.keys() | self.file.unread.keys()
        if extra := sorted(name for name in there - expected if not self.is_harmless(name)):
            raise CheckpointError(
                f"{self.path}: expected the tensors of {self.keys.text('general.architecture')} alone, found "
                f"{len(extra)} others: {', '.join(extra[:MAX_NAMED])}; without them the text would be garbage"
            )

    def stored(self, name: str) -> str:
        """Return the name of a tensor in the file."""
        return gguf_tensor(name, self.kind.names)

    def is_harmless(self, name: str) -> bool:
        """Return whether a tensor is of the blocks behind the last one, which guess tokens."""
        place = name.split(".")[1] if name.startswith("blk.") else ""
        return self.kind.mixes and place.isdecimal() and int(place) >= self.config.num_layers

    def require_layer(self, layer: LinearName) -> list[str]:
        """Return the names of a layer's tensors, which must be there but for a scale of its outputs."""
        names = [self.require(self.stored(layer.name), (layer.out_features, layer.in_features), ternary=True)]
        if layer.has_bias:
            names.append(self.require(f"{gguf_layer(layer.name, self.kind.names)}.bias", (layer.out_features,)))
        scale = f"{gguf_layer(layer.name, self.kind.names)}.scale"
        return [*names, self.require(scale, (1,))] if scale in self.file.tensors else names

    def require(self, name: str, shape: tuple[int, ...], ternary: bool = False) -> str:
        """Return the name of a tensor. Raise CheckpointError unless it is there, of a shape, of codes if asked for."""
        what = f"{'codes' if ternary else 'numbers'} {shape}"
        if name in self.file.unread:
            raise CheckpointError(f"{self.file.place(name)}: expected {what}, found the type {self.file.unread[name]}")
        if (tensor := self.file.tensors.get(name)) is None:
            raise CheckpointError(f"{self.file.place(name)}: expected {what}, found no such tensor")
        if tensor.shape != shape or (ternary and not tensor.type.is_ternary):
            raise CheckpointError(f"{self.file.place(name)}: expected {what}, found {tensor.type.name} {tensor.shape}")
        return name

    def holds_codes(self, name: str) -> bool:
        """Return whether an embedding or a head is stored in ternary codes."""
        return self.file.tensors[self.stored(name)].type.is_ternary

    def dtype_of(self, name: str) -> torch.dtype:
        """Return the dtype in which `dense` reads a tensor."""
        return self.file.tensors[self.stored(name)].type.dtype or torch.float32

    def dense(self, name: str, device: torch.device = CPU) -> torch.Tensor:
        """Read an embedding, head or norm."""
        stored = self.stored(name)
        tensor = self.file.tensors[stored]
        if self.hadamard is not None and stored in self.hadamard.rotations:
            raise CheckpointError(f"{self.file.place(stored)}: expected ternary codes, as it is folded, found floats")
        if tensor.type.to_floats is None:
            return self.in_order(name, check_finite(self.file.place(stored), self.file.read(stored, device)))
        blocks = self.file.read_bytes(stored, device).view(-1, tensor.type.num_bytes)
        floats = torch.empty(tensor.shape, dtype=torch.float32, device=device)
        parts = floats.view(-1, tensor.type.block).split(SLICE_BLOCKS)
        for part, source in zip(parts, blocks.split(SLICE_BLOCKS), strict=True):
            part.copy_(tensor.type.to_floats(source))
        return self.in_order(name, check_finite(self.file.place(stored), floats))

    def in_order(self, name: str, floats: torch.Tensor) -> torch.Tensor:
        """Return a tensor of floats by our name as we have it."""
        net = self.config.delta_net
        return floats if net is None else reorder_floats(name, floats, net, heads_in_order)

    def ternary(self, layer: LinearName, out: torch.Tensor) -> TernaryWeight:
        """Read a ternary layer, its codes into `out`."""
        name = self.stored(layer.name)
        w_scale, group_size, count = self.fill(name, layer, out)
        w_scale = w_scale * self.output_scale(layer)
        self.oddities.note_density(name, check_codes(self.file.place(name), count))
        check_finite(self.file.place(name), w_scale)
        if w_scale.dim() == 0 and not w_scale > 0:
            raise CheckpointError(f"{self.file.place(name)}: expected a positive scale, found {float(w_scale):g}")
        quantizes = self.kind.quantizes or self.config.inner_norms
        usual = "a8" if quantizes and not group_size else "a16"
        activation = self.keys.word(ACTIVATION, ("a8", "a16"), usual)
        inputs, rotation = layer.in_features, self.rotation(layer)
        weight = TernaryWeight(out, w_scale, self.bias(layer), inputs, group_size, activation, rotation)
        if (net := self.config.delta_net) is not None:
            return self.with_heads_in_order(weight, layer, net)
        return reordered(weight, layer, self.config, in_halves) if self.kind.pairs else weight

    def with_heads_in_order(self, weight: TernaryWeight, layer: LinearName, net: DeltaNetConfig) -> TernaryWeight:
        """Return a layer with the heads of a gated DeltaNet in our order: the inputs of the last one may have it."""
        place, is_last = self.file.place(self.stored(layer.name)), is_behind_heads(layer.name)
        if is_last and self.hadamard is not None and self.hadamard.gdn_v_grouped:
            return weight
        if is_last and weight.rotation is not None and net.value_heads != net.key_heads:
            raise CheckpointError(
                f"{place}: expected {PREFIX}gdn_v_grouped where it is folded: its inputs cannot be put in order behind "
                "a transform"
            )
        try:
            return reorder_layer(weight, layer, net, heads_in_order)
        except InvalidInput as error:
            raise CheckpointError(f"{place}: {error}") from None

    def rotation(self, layer: LinearName) -> SignedBlocks | None:
        """Return the rotation of a ternary layer's input, None where it has none."""
        return None if self.hadamard is None else self.hadamard.rotations.get(self.stored(layer.name))

    def fill(self, name: str, layer: LinearName, out: torch.Tensor) -> tuple[torch.Tensor, int, CodeCount]:
        """Fill `out` with the codes of a tensor in the order of the file.

        Returns:
            Scales, inputs per scale or 0, and how many codes there are of each kind.
        """
        of = self.file.tensors[name].type
        content = self.file.read_bytes(name, out.device)
        if of is I2_S:
            try:
                w_scale, count = read_i2_s(content, self.i2_s, out, layer.in_features)
            except ValueError as error:
                raise CheckpointError(f"{self.file.place(name)}: expected {error}") from None
            return w_scale, 0, count
        blocks = content.view(-1, of.num_bytes)
        count = decode(of.stored, blocks, out, layer.in_features)
        w_scale = scale_of(blocks[:, of.scale_at : of.scale_at + 2], layer.out_features)
        return w_scale, of.block if w_scale.dim() == 2 else 0, count

    def output_scale(self, layer: LinearName) -> torch.Tensor:
        """Return what a layer's outputs are multiplied by besides, which few files have."""
        name = f"{gguf_layer(layer.name, self.kind.names)}.scale"
        scale: torch.Tensor = self.file.read(name)[0] if name in self.file.tensors else torch.ones(())
        return scale

    def bias(self, layer: LinearName) -> torch.Tensor | None:
        """Read a layer's bias, float32 (N,), None where it has none."""
        if not layer.has_bias:
            return None
        name = f"{gguf_layer(layer.name, self.kind.names)}.bias"
        return check_finite(self.file.place(name), self.file.read(name)).float()


def scale_of(halves: torch.Tensor, out_features: int) -> torch.Tensor:
    """Return the coarsest scale of the bytes of float16 scales, uint8 (blocks, 2); most weights have one for all."""
    first = halves[:1].clone().view(torch.float16).float()
    if halves.device.type == "cpu" and first != 0:
        bits = halves.numpy().view(np.uint16)  # without torch's threads, which would wait for one another
        if bool((bits == bits[0]).all()):
            return first.view(())
    scales = halves.contiguous().view(torch.float16)
    return coarsest_scale(scales.float().view(out_features, -1))
