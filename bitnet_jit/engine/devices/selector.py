"""`DeviceSelector`: on which device a model should be, by what is there, what was measured, and what memory is free.

The fastest device that has room is taken. Where two are alike, as the GPUs of one machine, the one with more free
memory; where nothing else tells, the order of the table of devices: GPUs before the CPU.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch

from bitnet_jit.arguments import show, whole_number
from bitnet_jit.engine.devices.backends import MLX, all_devices, backend_of
from bitnet_jit.engine.devices.speed import Speed, measured_speed
from bitnet_jit.errors import InvalidInput, OutOfMemory
from bitnet_jit.system.memory import in_words

logger = logging.getLogger(__name__)

Mode = Literal["auto", "prefer", "force"]
MODES = ("auto", "prefer", "force")
TYPICAL = 2**28  # weights, where nobody says
WEIGHTS_PER_BYTE = 4  # of a packed weight
MAX = 2**63 - 1


@dataclass(frozen=True)
class Score:
    """What speaks for a device.

    Attributes:
        device: the device.
        seconds: that the rows take there, by its measured speed.
        free_bytes: of its memory.
    """

    device: torch.device
    seconds: float
    free_bytes: int

    def __str__(self) -> str:
        return f"{self.device}: {1e3 * self.seconds:.3g} ms, {in_words(self.free_bytes)} free"


def free_bytes(device: torch.device) -> int:
    """Return the bytes of a device's memory that are free."""
    return backend_of(device).memory_usage().free_bytes


@dataclass(frozen=True)
class DeviceSelector:
    """Chooses among devices.

    Args:
        mode: "auto" takes the fastest one; "prefer" takes `device` if it is there; "force" takes no other.
        device: a type such as "cuda", or one device such as "cuda:1"; not with "auto".
        devices: what there is; None: all that torch can use here.
        speed: device -> what was measured; None where a device does not work.
        free: device -> bytes of its memory that are free.

    Raises:
        InvalidInput: no such mode; a device where it has no sense, or none; with "force" one that is not here.

    >>> DeviceSelector("force", "cpu").select()
    device(type='cpu')
    """

    mode: Mode = "auto"
    device: torch.device | str | None = None
    devices: Sequence[torch.device] | None = None
    speed: Callable[[torch.device], Speed | None] = field(default=measured_speed, repr=False)
    free: Callable[[torch.device], int] = field(default=free_bytes, repr=False)

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise InvalidInput(f"mode: expected one of {', '.join(MODES)}, got {show(self.mode)}")
        if (self.device is None) != (self.mode == "auto"):
            expected = "no device" if self.mode == "auto" else "a device"
            raise InvalidInput(f"device: expected {expected} with mode={self.mode!r}, got {show(self.device)}")
        if self.device is not None and not isinstance(self.device, str | torch.device):
            raise InvalidInput(f"device: expected such as 'cuda:0', got {show(self.device)}")
        if self.devices is None:
            object.__setattr__(self, "devices", tuple(all_devices()))
        if self.mode == "force" and not self._named():
            raise InvalidInput(
                f"device: expected one of {self._in_words()}, got {show(str(self.device))}{self._hint()}"
            )

    def select(self) -> torch.device:
        """Return the device for a model of which nothing is known. Nothing is measured where there is no choice."""
        candidates = self._candidates()
        return candidates[0] if len(candidates) == 1 else self._ranked(candidates, TYPICAL, 1)[0].device

    def scores(self, num_params: int = TYPICAL, batch: int = 1) -> list[Score]:
        """Return what speaks for each device, the best one first; those that do not work are left out."""
        return self._ranked(self._candidates(), num_params, batch)

    def recommend_device(self, num_params: int, batch: int = 1, memory_bytes: int | None = None) -> torch.device:
        """Return the fastest device for a model that has room for it.

        Args:
            num_params: its weights.
            batch: rows that it gets at a time.
            memory_bytes: that it takes; None: its packed weights, four to a byte.

        Raises:
            InvalidInput: a number is out of range.
            OutOfMemory: no device has so much free memory.

        >>> DeviceSelector("force", "cpu").recommend_device(1_000_000, batch=8)
        device(type='cpu')
        """
        params, rows = whole_number("num_params", num_params, 1, MAX), whole_number("batch", batch, 1, MAX)
        needed = -(-params // WEIGHTS_PER_BYTE)
        if memory_bytes is not None:
            needed = whole_number("memory_bytes", memory_bytes, 0, MAX)
        ranked = self._ranked(self._candidates(), params, rows)
        for score in ranked:
            if score.free_bytes >= needed:
                return score.device
        there = "; ".join(map(str, ranked))
        raise OutOfMemory(f"memory_bytes: {in_words(needed)} are free on no device ({there})")

    def _ranked(self, candidates: Sequence[torch.device], num_params: int, batch: int) -> list[Score]:
        """Return the scores of devices that work, the best one first."""
        scores = [
            Score(device, speed.seconds(num_params, batch), self.free(device))
            for device in candidates
            if (speed := self.speed(device)) is not None
        ]
        if not scores:
            raise InvalidInput(f"device: none of {', '.join(map(str, candidates))} runs packed layers; see the log")
        return sorted(scores, key=lambda score: (score.seconds, -score.free_bytes))

    def _candidates(self) -> Sequence[torch.device]:
        """Return the devices that the mode leaves."""
        assert self.devices is not None
        named = self._named()
        if self.mode == "prefer" and not named:
            logger.warning("%s was preferred and is not here; there are %s", self.device, self._in_words())
        return named or self.devices

    def _named(self) -> list[torch.device]:
        """Return the devices that `device` names."""
        if self.device is None or self.devices is None:
            return []
        kind, _, index = str(self.device).partition(":")
        return [one for one in self.devices if one.type == kind and index in ("", str(one.index or 0))]

    def _in_words(self) -> str:
        """Return the devices that are here."""
        return ", ".join(map(str, self.devices or ()))

    def _hint(self) -> str:
        """Return what else is to be said of a device that is not here."""
        return "; MLX is no device of torch: see bitnet_jit.mlx, or name mps" if str(self.device) == MLX else ""
