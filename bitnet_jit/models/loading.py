"""`load`: a checkpoint directory -> a `Decoder`, weight by weight, without a dense copy of any of them."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import torch

from bitnet_jit.errors import CheckpointError, InvalidInput
from bitnet_jit.models.block import Attention, Block, FeedForward
from bitnet_jit.models.checkpoint.hf_config import read_config
from bitnet_jit.models.checkpoint.hf_tensors import (
    EMBEDDING,
    FINAL_NORM,
    HEAD,
    LinearNames,
    block_names,
    check_tensors,
)
from bitnet_jit.models.checkpoint.tensor_files import TensorFiles
from bitnet_jit.models.checkpoint.ternary import TernaryReader, checked_floats
from bitnet_jit.models.config import DecoderConfig
from bitnet_jit.models.decoder import Decoder
from bitnet_jit.models.tokenizer import find_tokenizer
from bitnet_jit.nn import PackedBitLinear, RMSNorm

DTYPES = (torch.float32, torch.bfloat16)
MAX_REASON = 200  # characters of torch's reasons, some of which list all backends


def load(
    path: str | Path,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
    progress: Callable[[int, int], None] | None = None,
) -> Decoder:
    """Load a ternary decoder from a Hugging Face directory: config.json and safetensors, one file or several.

    Args:
        path: the directory.
        device: where the weights go, the CPU by default.
        dtype: of activations, keys and values: float32 or bfloat16. Weights are stored alike in both.
        progress: called with the number of blocks that are loaded, and that there are, after each.

    Returns:
        A `Decoder` that holds packed weights, the embedding and norms in the checkpoint's dtype, and float32 scales.

    Raises:
        CheckpointError: a file is missing or damaged, or describes a model that we cannot run; it names file, tensor,
            what was found and what was expected.
        InvalidInput: path is no path, dtype is another, or there is no such device.

    Warns:
        CheckpointWarning: a scale contradicts its sense, or a weight has almost no or almost only zeros.

    >>> from bitnet_jit.models.embedded import embedded_model
    >>> decoder = load(embedded_model())
    >>> bytes(decoder.generate(list(b"And it came to pass "), max_new_tokens=5).tolist())
    b'And it came to pass after'
    """
    if dtype not in DTYPES:
        raise InvalidInput(f"dtype: expected torch.float32 or torch.bfloat16, got {dtype}")
    place, directory = check_device(device), check_directory(path)
    config, storage = read_config(directory / "config.json")
    tokenizer = find_tokenizer(directory, config.vocab_size)
    with TensorFiles(directory) as files:
        reader = TernaryReader(files, storage)
        check_tensors(config, files, reader)
        builder = Builder(config, files, reader, place)
        embedding = builder.floats(EMBEDDING)
        blocks = []
        for index in range(config.num_layers):
            blocks.append(builder.block(index))
            if progress is not None:
                progress(index + 1, config.num_layers)
        head = None if config.tied_embeddings else builder.floats(HEAD)
        norm = builder.norm(FINAL_NORM)
    reader.warn()
    return Decoder(config, embedding, blocks, norm, head, dtype, tokenizer)


def check_directory(path: str | Path) -> Path:
    """Return the path of a directory.

    Raises:
        InvalidInput: it is no path.
        CheckpointError: there is no such directory, or it cannot be reached.
    """
    try:
        directory = Path(path)
    except TypeError as error:
        raise InvalidInput(f"path: expected a str or a Path, got {path!r}") from error
    try:
        if stat.S_ISDIR(os.stat(directory).st_mode):
            return directory
        found = "something else"
    except FileNotFoundError:
        found = "none"
    except (OSError, ValueError) as error:  # ValueError: a NUL or half a surrogate pair
        found = f"none that can be reached ({error})"
    raise CheckpointError(f"{directory}: expected a directory with config.json and safetensors files, found {found}")


def check_device(device: torch.device | str | None) -> torch.device:
    """Return the device, the CPU by default.

    Raises:
        InvalidInput: torch knows no such device, this machine has none, or it holds no values ("meta").
    """
    try:
        found = torch.empty(0, device="cpu" if device is None else device).device
    # AssertionError, ImportError: this build of torch lacks that kind of device; TypeError: it is no device at all
    except (RuntimeError, AssertionError, ImportError, TypeError) as error:
        reason = str(error).partition("\n")[0][:MAX_REASON]
        raise InvalidInput(f"device: {device!r} cannot be used ({reason})") from error
    if found.type == "meta":
        raise InvalidInput(f"device: {device!r} cannot be used (tensors on it hold no values)")
    return found


class Builder:
    """Makes modules out of checked files, one weight at a time, on the device where they stay."""

    def __init__(self, config: DecoderConfig, files: TensorFiles, reader: TernaryReader, device: torch.device) -> None:
        self.config, self.files, self.reader, self.device = config, files, reader, device

    def floats(self, name: str) -> torch.Tensor:
        """An embedding or norm in its own dtype, copied out of its file."""
        return checked_floats(self.files, name).to(self.device)

    def norm(self, name: str) -> RMSNorm:
        """The norm of that name."""
        weight = self.floats(name)
        norm = RMSNorm(len(weight), self.config.norm_eps, device="meta")
        norm.weight = torch.nn.Parameter(weight, requires_grad=False)
        return norm

    def linear(self, names: LinearNames) -> PackedBitLinear:
        """Layers that share an input, as one."""
        found = self.reader.read(names.parts, names.in_features, names.has_bias)
        bias = None if found.bias is None else found.bias.to(self.device)
        return PackedBitLinear.from_packed(
            found.w_packed.to(self.device), found.w_scale.to(self.device), bias, in_features=names.in_features
        )

    def block(self, index: int) -> Block:
        """Block `index`."""
        names = block_names(self.config, index)
        attention = Attention(
            self.config,
            self.norm(names.input_norm),
            self.linear(names.qkv),
            self.norm(names.attention_sub_norm) if self.config.sub_norms else None,
            self.linear(names.output),
        )
        feed_forward = FeedForward(
            self.norm(names.middle_norm),
            self.linear(names.gate_up),
            self.norm(names.mlp_sub_norm) if self.config.sub_norms else None,
            self.linear(names.down),
        )
        return Block(attention, feed_forward)
