"""`load`: a model in any format -> a `Decoder`, weight by weight, without a dense copy of any of them."""

import os
from collections.abc import Callable

import torch

from bitnet_jit.checkpoints.building import Builder
from bitnet_jit.checkpoints.embedded import embedded_model
from bitnet_jit.checkpoints.formats.reader import Reader
from bitnet_jit.checkpoints.formats.registry import make_reader
from bitnet_jit.checkpoints.hub import find_model
from bitnet_jit.devices.checks import check_device
from bitnet_jit.errors import InvalidInput
from bitnet_jit.generation.decoder import Decoder
from bitnet_jit.kernels.registry import get_ready
from bitnet_jit.models.head import check_head, stored_head
from bitnet_jit.models.kv_dtype import kv_dtype
from bitnet_jit.models.network import DTYPES
from bitnet_jit.system.memory import give_back

GIVE_BACK = 4  # blocks, whose temporary copies may be held at once
Progress = Callable[[int, int], None]


def load(
    path: str | os.PathLike[str] | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
    progress: Progress | None = None,
    head: str = "checkpoint",
    cache: str = "auto",
) -> Decoder:
    """Load a ternary decoder from a Hugging Face directory (config.json and safetensors) or from a GGUF file.

    Args:
        path: the directory or file; or, as a str, the id of a model on the Hugging Face hub, downloaded once
            ("microsoft/bitnet-b1.58-2B-4T"). None is the small model that comes with the package.
        device: where the weights go, the CPU by default.
        dtype: of activations: float32 or bfloat16. Weights are stored alike in both.
        progress: called with the number of blocks that are loaded, and that there are, after each.
        head: "checkpoint", "bfloat16", "float32", "int8", or if it is ternary "i2" or "t5": see docs/generation.md.
        cache: of kept keys and values: "auto" (as activations), "float32", "bfloat16" or "int8" (for CPUs).

    Returns:
        A `Decoder`: packed weights, embedding and norms in the checkpoint's dtype, and float32 scales.

    Raises:
        CheckpointError: there is no such model, or its files are damaged or of one that we cannot run: it says where.
        InvalidInput: dtype, head, cache or device is another, path is no path, or a head to be packed is not ternary.

    Warns CheckpointWarning where a scale contradicts its sense, or a weight has almost no or almost only zeros.

    >>> bytes(load().generate(list(b"And it came "), max_new_tokens=2).tolist())
    b'And it came to'
    """
    if dtype not in DTYPES:
        raise InvalidInput(f"dtype: expected torch.float32 or torch.bfloat16, got {dtype}")
    word, place = check_head(head), check_device(device)
    kept = kv_dtype(cache, dtype, place)
    reader = make_reader(embedded_model() if path is None else find_model(path))
    get_ready(place.type)  # while weights are read
    decoder = build(reader, place, dtype, progress or (lambda *_: None), word, kept)
    reader.oddities.warn()
    return decoder


def build(
    reader: Reader,
    device: torch.device,
    dtype: torch.dtype,
    progress: Progress,
    head: str,
    cache_dtype: torch.dtype | None = None,
) -> Decoder:
    """Build the decoder of a reader, its tensors read in the order in which they stand in the model."""
    config, tokenizer = reader.config, reader.tokenizer()
    with reader:
        builder = Builder(reader, device)
        embedding, scale = stored_head(builder.embedding(), head if config.tied_embeddings else "checkpoint")
        blocks = []
        for index in range(config.num_layers):
            blocks.append(builder.block(index))
            if index % GIVE_BACK == 0:
                give_back()
            progress(index + 1, config.num_layers)
        dense, norm, output = builder.head(), builder.final_norm(), None
        if dense is not None:
            output, scale = stored_head(dense, head)
    del dense
    give_back()
    return Decoder(config, embedding, blocks, norm, output, dtype, tokenizer, scale, cache_dtype)
