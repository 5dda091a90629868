"""The memory that a run needs: a run without enough of it is refused before anything is allocated."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from bitnet_jit.errors import InvalidInput, OutOfMemory
from bitnet_jit.system.memory import in_words, total_memory
from bitnet_jit.training.settings import VOCABULARY, TrainSettings

FLOAT = 4  # bytes
COPIES = 4  # of each weight: itself, its gradient, AdamW's two moments
TOKEN = 8  # bytes, int64
ALLOCATOR = "allocate memory"  # in the words of torch's RuntimeError on a CPU


def min_memory(settings: TrainSettings) -> int:
    """Return the bytes that a run needs at least: weights, gradients, moments, losses, tables, tokens and logits.

    >>> min_memory(TrainSettings()) // 2**20
    162
    """
    hidden, middle, tokens = settings.hidden_size, settings.intermediate_size, settings.batch_size * settings.window
    head_dim = hidden // settings.heads
    attention = 2 * hidden * hidden + 2 * hidden * settings.key_value_heads * head_dim
    weights = VOCABULARY * hidden + settings.layers * (attention + 3 * hidden * middle)
    tables = 2 * settings.context_length * head_dim
    logits = tokens * VOCABULARY
    return FLOAT * (COPIES * weights + settings.steps + tables + logits) + TOKEN * tokens


def check_memory(settings: TrainSettings, device: torch.device) -> None:
    """Raise InvalidInput where a run needs more memory than its device has."""
    is_cuda = device.type == "cuda"
    there = torch.cuda.get_device_properties(device).total_memory if is_cuda else total_memory()
    if (needed := min_memory(settings)) > there:
        raise InvalidInput(
            f"settings: {sizes(settings)} need at least {in_words(needed)} of memory, {device} has {in_words(there)}; "
            "take smaller ones"
        )


def sizes(settings: TrainSettings) -> str:
    """Return the settings that memory depends on, in words."""
    names = ("layers", "hidden_size", "intermediate_size", "context_length", "window", "batch_size", "steps")
    return ", ".join(f"{name}={getattr(settings, name)}" for name in names)


@contextmanager
def memory_in_words(settings: TrainSettings, device: torch.device) -> Iterator[None]:
    """Turn a lack of memory within the block into an OutOfMemory that names the settings."""
    try:
        yield
    except OutOfMemory:
        raise
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not (
            isinstance(error, torch.OutOfMemoryError) or ALLOCATOR in str(error)
        ):
            raise
        reason = str(error).partition("\n")[0] or "no more memory"
        raise OutOfMemory(f"settings: {sizes(settings)} need more memory than {device} has left ({reason})") from error
