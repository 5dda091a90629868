"""`load`: a model in any format -> a `Decoder`, weight by weight, without a dense copy of any of them."""

import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from bitnet_jit.checkpoints.building import Builder
from bitnet_jit.checkpoints.checks import Oddities
from bitnet_jit.checkpoints.embedded import embedded_model
from bitnet_jit.checkpoints.formats.gguf.i2_s import USUAL, VARIANTS
from bitnet_jit.checkpoints.formats.gguf.model import GgufModel
from bitnet_jit.checkpoints.formats.gguf.types import I2_S
from bitnet_jit.checkpoints.formats.reader import Reader
from bitnet_jit.checkpoints.formats.registry import make_reader
from bitnet_jit.checkpoints.hub import find_model
from bitnet_jit.checkpoints.sanity import best_of, check_sane
from bitnet_jit.devices.checks import check_device
from bitnet_jit.errors import InvalidInput
from bitnet_jit.generation.decoder import Decoder
from bitnet_jit.kernels.registry import get_ready
from bitnet_jit.models.config import Multipliers
from bitnet_jit.models.head import check_head, stored_head
from bitnet_jit.models.kv_dtype import kv_dtype
from bitnet_jit.models.network import DTYPES
from bitnet_jit.system.memory import give_back

logger = logging.getLogger(__name__)

AUTO = "auto"
GIVE_BACK = 4  # blocks, whose temporary copies may be held at once
Progress = Callable[[int, int], None]
Begun = Callable[[Reader], None]


@dataclass(frozen=True)
class Wanted:
    """How a model is to be loaded; the fields are arguments of `load`, checked."""

    device: torch.device
    dtype: torch.dtype
    progress: Progress
    head: str
    cache: torch.dtype
    begun: Begun


def load(
    path: str | os.PathLike[str] | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
    progress: Progress | None = None,
    head: str = "checkpoint",
    cache: str = "auto",
    i2_s: str = USUAL,
    begun: Begun | None = None,
) -> Decoder:
    """Load a ternary decoder from a folder of Hugging Face's or of mlx-lm's files, or from a GGUF file.

    Args:
        path: the folder or file; or a hub id, downloaded once ("microsoft/bitnet-b1.58-2B-4T"). None is the small model
            that comes with the package.
        device: where the weights go, the CPU by default.
        dtype: of activations: float32 or bfloat16. Weights are stored alike in both.
        progress: called with the number of blocks that are loaded, and that there are, after each.
        head: "checkpoint", "bfloat16", "float32", "int8", or if it is ternary "i2" or "t5": see docs/generation.md.
        cache: of kept keys and values: "auto" (as activations), "float32", "bfloat16" or "int8" (for CPUs).
        i2_s: how a GGUF file's I2_S is laid out, which nothing in it tells: "x86", "arm", "rows4", or "auto", by loss.
        begun: called with the `Reader` before weights are read; its `description` says which format was found.

    Returns:
        A `Decoder`: packed weights, embedding and norms in the checkpoint's dtype, and float32 scales.

    Raises:
        CheckpointError: there is no such model, or its files are damaged or of one that we cannot run: it says where.
        InvalidInput: an argument is another, or a head to be packed is not ternary.

    Warns CheckpointWarning of unlikely scales and densities, and of a model that gives English no more than chance.

    >>> bytes(load().generate(list(b"And it came "), max_new_tokens=2).tolist())
    b'And it came to'
    """
    place = check_device(device)
    kept = kv_dtype(cache, check_dtype(dtype), place)
    wanted = Wanted(place, dtype, progress or ignore, check_head(head), kept, begun or ignore)
    return load_as(embedded_model() if path is None else find_model(path), wanted, check_variant(i2_s))


def ignore(*_: object) -> None:
    """Ignore what is told."""


def check_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of activations. Raise InvalidInput where it is another."""
    if dtype not in DTYPES:
        raise InvalidInput(f"dtype: expected torch.float32 or torch.bfloat16, got {dtype}")
    return dtype


def check_variant(i2_s: str) -> str:
    """Return a variant of I2_S. Raise InvalidInput where there is no such one."""
    if i2_s not in (*VARIANTS, AUTO):
        raise InvalidInput(f"i2_s: expected one of {', '.join((*VARIANTS, AUTO))}, got {i2_s!r}")
    return i2_s


def load_as(files: Path, wanted: Wanted, variant: str) -> Decoder:
    """Load a model, I2_S as a variant, and warn of what is unlikely about it."""
    get_ready(wanted.device.type)  # while weights are read
    variants = variants_of(files) if variant == AUTO else (variant,)
    makers = {name: partial(read_as, files, wanted, name) for name in variants}
    decoder, oddities = best_of(makers, str(files)) if len(makers) > 1 else makers[variants[0]]()
    oddities.warn(3)
    check_sane(decoder, str(files), 3)
    return decoder


def read_as(files: Path, wanted: Wanted, variant: str) -> tuple[Decoder, Oddities]:
    """Read a model, I2_S as a variant; return what is unlikely about it, too."""
    reader = make_reader(files, variant)
    logger.info("%s: %s", files, reader.description)
    wanted.begun(reader)
    return build(reader, wanted.device, wanted.dtype, wanted.progress, wanted.head, wanted.cache), reader.oddities


def variant_of(files: Path, i2_s: str) -> str:
    """Return the variant as which I2_S of a model is to be read: for "auto" the one that gives a text the lowest loss.

    Raises:
        InvalidInput: there is no such variant.
        CheckpointError: the model cannot be read.
    """
    if check_variant(i2_s) != AUTO:
        return i2_s
    wanted = Wanted(torch.device("cpu"), torch.float32, ignore, "checkpoint", torch.float32, ignore)
    names = variants_of(files)
    makers = {name: lambda name=name: (read_as(files, wanted, name)[0], name) for name in names}
    return best_of(makers, str(files))[1] if len(names) > 1 else names[0]


def variants_of(files: Path) -> tuple[str, ...]:
    """Return the variants of I2_S that a model may be read as: one where it has none of that type, or no tokenizer."""
    reader = make_reader(files)
    if not isinstance(reader, GgufModel) or I2_S.name not in reader.types or reader.tokenizer() is None:
        return (USUAL,)
    return VARIANTS


def build(
    reader: Reader,
    device: torch.device,
    dtype: torch.dtype,
    progress: Progress,
    head: str,
    cache_dtype: torch.dtype | None = None,
) -> Decoder:
    """Build the decoder of a reader, its tensors read in the order in which they stand in the model.

    A thread makes the tokenizer meanwhile.
    """
    config, defaults, pooling = reader.config, reader.defaults(), reader.pooling()
    with ThreadPoolExecutor(1, "bitnet_jit-tokenizer") as beside, reader:
        tokenizer = beside.submit(reader.tokenizer)
        builder = Builder(reader, device, dtype)
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
    config = replace(config, multipliers=Multipliers())  # they are in scales and norms now
    words = tokenizer.result()
    return Decoder(config, embedding, blocks, norm, output, dtype, words, scale, cache_dtype, defaults, pooling)
