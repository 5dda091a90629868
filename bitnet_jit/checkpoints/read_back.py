"""A folder that was just written, read as its readers will read it: by `load`, and by transformers for its models.

`load` reads Llama and BitNet. All other models in a Hugging Face format must be read by transformers, whose classes
tell on the meta device which tensors they miss.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from bitnet_jit.checkpoints.decoder_layers import dense_tensors, ternary_layers
from bitnet_jit.checkpoints.formats.gemma3 import in_files
from bitnet_jit.checkpoints.formats.hf_tokenizer import folder_tokenizer
from bitnet_jit.checkpoints.formats.reader import Reader
from bitnet_jit.checkpoints.formats.registry import make_reader
from bitnet_jit.checkpoints.formats.writer import Writer
from bitnet_jit.checkpoints.fused_layers import read_joint
from bitnet_jit.errors import CheckpointError, InvalidInput
from bitnet_jit.models.config import DecoderConfig

logger = logging.getLogger(__name__)

MAX_NAMED = 3  # tensors that an error names
WRONG = {"missing_keys": "lacks", "unexpected_keys": "has no place for", "mismatched_keys": "has another shape for"}


def check_read_back(folder: Path, directory: Path, model: Any, writer: Writer) -> None:
    """Raise InvalidInput unless the readers of a format take the files that were written.

    Args:
        folder: with all files that were written.
        directory: where they are to lie, beside a tokenizer that may be there.
        model: from which they were written, or what has its config.
        writer: by which they were written.
    """
    try:
        reader = make_reader(folder)
    except CheckpointError as error:
        reason = told(error, folder)
        if not writer.by_transformers:
            raise InvalidInput(
                f"model: cannot be saved in format {writer.name!r}, which only bitnet_jit.load reads: {reason}"
            ) from None
        check_by_transformers(folder, model, reason)
        return
    try:
        check_said(reader.config, model)
        reader.defaults()
        reader.pooling()
        read_all(reader)
    except CheckpointError as error:
        raise InvalidInput(f"model: cannot be saved, bitnet_jit.load would refuse it: {told(error, folder)}") from None
    check_tokenizer(directory, reader.config)
    if writer.by_transformers and of_transformers(model):
        check_by_transformers(folder, model, "")


def check_said(config: DecoderConfig, model: Any) -> None:
    """Raise CheckpointError where config.json says something else than a decoder's own config."""
    if isinstance(model.config, DecoderConfig) and config != (expected := in_files(model.config)):
        different = {name: value for name, value in vars(expected).items() if getattr(config, name) != value}
        name, value = next(iter(different.items()))
        raise CheckpointError(
            f"config.json cannot say {name}={value!r}; a reader takes it for {getattr(config, name)!r}"
        )


def check_tokenizer(directory: Path, config: DecoderConfig) -> None:
    """Raise InvalidInput where the folder holds a tokenizer that keeps `load` from reading the model beside it."""
    if not find_spec("tokenizers"):
        return
    try:
        folder_tokenizer(directory, config.vocab_size)
    except CheckpointError as error:
        raise InvalidInput(
            f"directory: bitnet_jit.load would refuse what is saved beside the tokenizer there; remove it, or choose "
            f"another folder: {error}"
        ) from None


def read_all(reader: Reader) -> None:
    """Read every tensor as `load` does, one at a time, and keep none."""
    with reader:
        for name in dense_tensors(reader):
            reader.dense(name)
        for layer in ternary_layers(reader):
            read_joint(reader, [layer])


def of_transformers(model: object) -> bool:
    """Return whether the class of a model is one of transformers' models."""
    return any(kind.__module__ == "transformers.modeling_utils" for kind in type(model).__mro__)


def check_by_transformers(folder: Path, model: Any, reason: str) -> None:
    """Raise InvalidInput unless transformers finds all tensors of its model in the files, and no others.

    Args:
        folder: with the files.
        model: its class reads them; where it is no class of transformers, the class for its config does.
        reason: of `load` for not taking them, "" where it does.
    """
    if not (find_spec("transformers") and find_spec("accelerate")):  # transformers reads such files by accelerate
        if reason:
            raise InvalidInput(
                f"model: bitnet_jit.load does not read it ({reason}), and whether transformers does cannot be tried; "
                "install bitnet-jit[transformers]"
            )
        logger.info("not read back by transformers, which is not installed together with accelerate")
        return
    from transformers import AutoModelForCausalLM

    kind = type(model) if of_transformers(model) else AutoModelForCausalLM
    try:
        with quiet_transformers():
            _, info = kind.from_pretrained(
                folder, device_map="meta", output_loading_info=True, ignore_mismatched_sizes=True, local_files_only=True
            )
    except (
        OSError,
        RuntimeError,
        ValueError,
        KeyError,
        TypeError,
    ) as error:  # from_pretrained raises these on wrong files
        raise unreadable(kind, reason, told(error, folder)) from error
    for key, words in WRONG.items():
        names = sorted(str(name[0] if isinstance(name, tuple) else name) for name in info.get(key, ()))
        if names:
            others = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
            raise unreadable(kind, reason, f"{kind.__name__} {words} {', '.join(names[:MAX_NAMED])}{others}")


def unreadable(kind: type, reason: str, finding: str) -> InvalidInput:
    """Make the error for files that transformers does not take, nor `load` for some reason."""
    ours = f"; nor does bitnet_jit.load: {reason}" if reason else ""
    return InvalidInput(f"model: cannot be saved, transformers' {kind.__name__} would misread it: {finding}{ours}")


def told(error: Exception, folder: Path) -> str:
    """Return the words of an error, without the folder that nobody will find any more."""
    return " ".join(str(error).replace(f"{folder}/", "").replace(str(folder), "the files").split())


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Have transformers log errors alone, show no progress and compile nothing within the block."""
    from transformers.utils import logging as their_logging

    level, bars = their_logging.get_verbosity(), their_logging.is_progress_bar_enabled()
    their_logging.set_verbosity(logging.CRITICAL)
    their_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings(), torch.compiler.set_stance("force_eager"):
            warnings.simplefilter("ignore")
            yield
    finally:
        their_logging.set_verbosity(level)
        if bars:
            their_logging.enable_progress_bar()
