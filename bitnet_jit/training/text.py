"""Texts as bytes: windows to learn from, drawn anew for each step, and windows to be judged by."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from bitnet_jit.errors import InvalidInput
from bitnet_jit.system.memory import total_memory
from bitnet_jit.system.reading import read_file

SHARE = 2  # a text may take all memory divided by this
HELD_OUT = 0.05  # of a text that comes without another one to be judged by


def read_text(path: Path, name: str, window: int) -> torch.Tensor:
    """Read the bytes of a file, uint8 (size,).

    Raises:
        InvalidInput: it cannot be read, is not regular (a shell's <(command) is fine), does not fit into memory, or is
            shorter than a window and the byte behind it.
    """
    try:
        content = read_file(path, total_memory() // SHARE, pipes=True)
    except OSError as error:
        raise InvalidInput(f"{name}: {path} cannot be read ({error.strerror})") from error
    if len(content) <= window:
        raise InvalidInput(f"{name}: expected more than window={window} bytes, {path} has {len(content)}")
    return torch.frombuffer(content, dtype=torch.uint8)


def split(text: torch.Tensor, window: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (text to learn from, text to be judged by): the end, 5 % or at least a window, is held out.

    Raises:
        InvalidInput: the text is too short for both.
    """
    held_out = max(window, int(HELD_OUT * len(text)))
    if len(text) - held_out <= window:
        raise InvalidInput(f"text: expected more than {2 * window} bytes, since some are held out, got {len(text)}")
    return text[:-held_out], text[-held_out:]


def draw(text: torch.Tensor, batch_size: int, window: int, seed: int, step: int) -> torch.Tensor:
    """Draw the windows of one step, int64 (batch_size, window + 1); they depend on seed and step alone.

    >>> draw(torch.arange(100, dtype=torch.uint8), 2, 3, seed=0, step=5).shape
    torch.Size([2, 4])
    """
    firsts = np.random.default_rng([seed, step]).integers(0, len(text) - window, batch_size)
    places = torch.from_numpy(firsts)[:, None] + torch.arange(window + 1, device="cpu")
    return text[places].long()


def bits_per_byte(logits: Callable[[torch.Tensor], torch.Tensor], text: torch.Tensor, window: int, batch: int) -> float:
    """Compute the bits per byte of a text, in windows that do not overlap; the first byte of a window is given.

    Args:
        logits: (B, window) int64 on the CPU -> (B, window, 256).
        text: uint8 (size,); bytes behind the last whole window play no part.
        window: bytes.
        batch: number of windows at a time.
    """
    windows = text[: len(text) // window * window].view(-1, window).long()
    nats, count = 0.0, 0
    for part in torch.split(windows, batch):
        with torch.no_grad():
            predicted = logits(part)[:, :-1].float().flatten(0, 1)
        targets = part[:, 1:].flatten().to(predicted.device)
        nats += float(torch.nn.functional.cross_entropy(predicted, targets, reduction="sum"))
        count += len(targets)
    return nats / count / math.log(2)
