"""Texts as bytes: windows to learn from, drawn anew for each step, and windows to be judged by."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from bitnet_jit.errors import InvalidInput
from bitnet_jit.system.memory import total_memory
from bitnet_jit.system.reading import read_file

SHARE = 2  # of all memory, the part that a text may take
HELD_OUT = 0.05  # of a text that comes without another one to be judged by


def read_text(path: Path, name: str, window: int) -> torch.Tensor:
    """The bytes of a file, uint8 (size,).

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
    """(to learn from, to be judged by): the end of a text, 5 % or at least a window, is held out.

    Raises:
        InvalidInput: the text is too short for both.
    """
    held_out = max(window, int(HELD_OUT * len(text)))
    if len(text) - held_out <= window:
        raise InvalidInput(f"text: expected more than {2 * window} bytes, since some are held out, got {len(text)}")
    return text[:-held_out], text[-held_out:]


def draw(text: torch.Tensor, batch_size: int, window: int, seed: int, step: int) -> torch.Tensor:
    """The windows of one step, int64 (batch_size, window + 1): a matter of seed and step alone.

    >>> draw(torch.arange(100, dtype=torch.uint8), 2, 3, seed=0, step=5).shape
    torch.Size([2, 4])
    """
    firsts = np.random.default_rng([seed, step]).integers(0, len(text) - window, batch_size)
    places = torch.from_numpy(firsts)[:, None] + torch.arange(window + 1, device="cpu")
    return text[places].long()


def bits_per_byte(logits: Callable[[torch.Tensor], torch.Tensor], text: torch.Tensor, window: int, batch: int) -> float:
    """How many bits a byte of a text costs, in windows that do not overlap; a window's first byte is given.

    Args:
        logits: (B, window) int64 on the CPU -> (B, window, 256).
        text: uint8 (size,); what is left behind the last whole window plays no part.
        window: bytes.
        batch: windows at a time.
    """
    windows = text[: len(text) // window * window].view(-1, window).long()
    nats, count = 0.0, 0
    for part in torch.split(windows, batch):
        with torch.no_grad():
            found = logits(part)[:, :-1].float().flatten(0, 1)
        wanted = part[:, 1:].flatten().to(found.device)
        nats += float(torch.nn.functional.cross_entropy(found, wanted, reduction="sum"))
        count += len(wanted)
    return nats / count / math.log(2)
