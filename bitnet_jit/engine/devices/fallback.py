"""`Fallback`: tensors through modules, and through copies of them on the CPU where their device fails.

A call that its device has no memory for is made on the CPU, once. A device that has failed (its driver or a launch) is
not asked again by this engine: its modules run on the CPU from then on. The log says why.

Copies are made when they are first needed. A device that is gone gives no weights back, so `keep` makes one before.
"""

import copy
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from threading import Lock
from weakref import WeakKeyDictionary

import torch
from torch import nn

from bitnet_jit.engine.devices.failures import is_short_of_memory, speaks_of_device
from bitnet_jit.engine.tensors.infer import device_of, infer, infer_batch
from bitnet_jit.errors import DeviceFailed

logger = logging.getLogger(__name__)

CPU = torch.device("cpu")
One = Callable[[nn.Module, torch.Tensor], torch.Tensor]
Many = Callable[[nn.Module, Sequence[torch.Tensor]], list[torch.Tensor]]
Stamp = tuple[tuple[int, int, int], ...]  # of each tensor: identity, address, number of changes


@dataclass(frozen=True)
class CpuCopy:
    """A module's copy on the CPU, and what its tensors were when it was made."""

    module: nn.Module
    stamp: Stamp


class Fallback:
    """Runs tensors through modules; the CPU stands in for a device that fails.

    >>> layer = nn.Linear(8, 3)
    >>> Fallback().infer(layer, torch.ones(8)).shape
    torch.Size([3])
    """

    def __init__(self) -> None:
        self._failed: dict[torch.device, str] = {}
        self._copies: WeakKeyDictionary[nn.Module, CpuCopy] = WeakKeyDictionary()
        self._lock = Lock()

    @property
    def failed(self) -> dict[torch.device, str]:
        """Return the devices that are not asked any more, and why."""
        return dict(self._failed)

    def infer(self, module: nn.Module, x: torch.Tensor, compute: One = infer) -> torch.Tensor:
        """Return what a module makes of a tensor, as `tensors.infer`; the same result where its device fails.

        The output is on the device of x, but on the CPU where that has failed.

        Args:
            module, x: as there.
            compute: `infer`, perhaps with options.

        Raises:
            DeviceFailed: the device has failed, and the weights or x are nowhere else.
        """
        if not self._failed or (place := device_of(module)) not in self._failed:
            try:
                return compute(module, x)
            except (RuntimeError, MemoryError) as error:
                place = self._note(module, error)
        return compute(self._stand_in(module, place), self._saved(x))

    def infer_batch(
        self, module: nn.Module, xs: Sequence[torch.Tensor], compute: Many = infer_batch
    ) -> list[torch.Tensor]:
        """Return what a module makes of each tensor, as `tensors.infer_batch`; else as `infer`."""
        if not self._failed or (place := device_of(module)) not in self._failed:
            try:
                return compute(module, xs)
            except (RuntimeError, MemoryError) as error:
                place = self._note(module, error)
        return compute(self._stand_in(module, place), [self._saved(x) for x in xs])

    def keep(self, module: nn.Module) -> None:
        """Make the copy of a module on a GPU that stands in for it, if there is none; it takes the CPU's memory."""
        place = device_of(module)
        if place is not None and place != CPU:
            self._stand_in(module, place)

    def _note(self, module: nn.Module, error: Exception) -> torch.device:
        """Log what befell a module's device, and return that; raise the error where it is no device's, or the CPU's."""
        place = device_of(module)
        if place is None or place.type == CPU.type:
            raise error
        if is_short_of_memory(error, place):
            logger.warning("%s has too little memory for a call, which the CPU makes: %s", place, error)
        elif speaks_of_device(error, place):
            logger.error("%s has failed; the CPU stands in for it from now on: %s", place, error)
            self._failed[place] = str(error)
        else:
            raise error
        return place

    def _saved(self, x: torch.Tensor) -> torch.Tensor:
        """Return an input, on the CPU where it is on a device that has failed."""
        if not isinstance(x, torch.Tensor) or x.device not in self._failed:
            return x
        try:
            return x.to(CPU)
        except RuntimeError as error:
            raise DeviceFailed(f"x: {x.device} has failed, and gives it back no more: {error}") from error

    def _stand_in(self, module: nn.Module, place: torch.device | None) -> nn.Module:
        """Return a module's copy on the CPU, made anew where the module has changed since the last one."""
        with self._lock:
            kept, stamp = self._copies.get(module), stamp_of(module)
            if kept is not None and kept.stamp == stamp:
                return kept.module
            try:
                made = copy_to_cpu(module)
            except RuntimeError as error:
                reason = self._failed.get(place, "it is full") if place is not None else ""
                raise DeviceFailed(f"{place} has failed ({reason}), and gives no weights back: {error}") from error
            self._copies[module] = CpuCopy(made, stamp)
            return made


def tensors_of(module: nn.Module) -> Iterator[torch.Tensor]:
    """Yield all parameters and buffers."""
    return chain(module.parameters(), module.buffers())


def stamp_of(module: nn.Module) -> Stamp:
    """Return what tells whether a module's tensors have changed; no device is asked."""
    return tuple((id(one), one.data_ptr(), 0 if one.is_inference() else one._version) for one in tensors_of(module))


def copy_to_cpu(module: nn.Module) -> nn.Module:
    """Return a copy of a module on the CPU; its device needs no memory for that."""
    memo: dict[int, object] = {}
    for one in tensors_of(module):
        moved = one.detach().to(CPU, copy=True)
        memo[id(one)] = nn.Parameter(moved, one.requires_grad) if isinstance(one, nn.Parameter) else moved
    return copy.deepcopy(module, memo).to(CPU)
