"""`load`: a checkpoint directory -> a `Decoder`, weight by weight, without a dense copy of any of them."""

import os
from collections.abc import Callable

import torch

from bitnet_jit.checkpoints.embedded import embedded_model
from bitnet_jit.checkpoints.formats.hf_config import read_config
from bitnet_jit.checkpoints.formats.hf_tensors import (
    EMBEDDING,
    FINAL_NORM,
    HEAD,
    LinearNames,
    block_names,
    check_tensors,
)
from bitnet_jit.checkpoints.hub import find_model
from bitnet_jit.checkpoints.tensor_files import TensorFiles
from bitnet_jit.checkpoints.ternary import TernaryReader, checked_floats
from bitnet_jit.devices.checks import check_device
from bitnet_jit.errors import InvalidInput
from bitnet_jit.generation.decoder import Decoder
from bitnet_jit.generation.tokenizer import find_tokenizer
from bitnet_jit.models.config import DecoderConfig
from bitnet_jit.models.packed import PackedAttention, PackedBlock, PackedFeedForward
from bitnet_jit.nn import PackedBitLinear, RMSNorm

__all__ = ["Builder", "check_device", "load"]

DTYPES = (torch.float32, torch.bfloat16)


def load(
    path: str | os.PathLike[str] | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
    progress: Callable[[int, int], None] | None = None,
) -> Decoder:
    """Load a ternary decoder from a Hugging Face directory: config.json and safetensors, one file or several.

    Args:
        path: the directory; or, as a str, the id of a model on the Hugging Face hub such as
            "microsoft/bitnet-b1.58-2B-4T", which is downloaded once, unless there is a directory of that name. None is
            the small model that comes with the package.
        device: where the weights go, the CPU by default.
        dtype: of activations, keys and values: float32 or bfloat16. Weights are stored alike in both.
        progress: called with the number of blocks that are loaded, and that there are, after each.

    Returns:
        A `Decoder` that holds packed weights, the embedding and norms in the checkpoint's dtype, and float32 scales.

    Raises:
        CheckpointError: there is no such model, or it cannot be downloaded; or a file is missing or damaged, or
            describes a model that we cannot run: then it names file, tensor, what was found and what was expected.
        InvalidInput: dtype is another, there is no such device, or path is no path.

    Warns:
        CheckpointWarning: a scale contradicts its sense, or a weight has almost no or almost only zeros.

    >>> decoder = load()
    >>> bytes(decoder.generate(list(b"And it came to pass "), max_new_tokens=5).tolist())
    b'And it came to pass after'
    """
    if dtype not in DTYPES:
        raise InvalidInput(f"dtype: expected torch.float32 or torch.bfloat16, got {dtype}")
    place = check_device(device)
    directory = embedded_model() if path is None else find_model(path)
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

    def block(self, index: int) -> PackedBlock:
        """Block `index`."""
        names = block_names(self.config, index)
        attention = PackedAttention(
            self.config,
            self.norm(names.input_norm),
            self.linear(names.qkv),
            self.norm(names.attention_sub_norm) if self.config.sub_norms else None,
            self.linear(names.output),
        )
        feed_forward = PackedFeedForward(
            self.norm(names.middle_norm),
            self.linear(names.gate_up),
            self.norm(names.mlp_sub_norm) if self.config.sub_norms else None,
            self.linear(names.down),
        )
        return PackedBlock(attention, feed_forward)
