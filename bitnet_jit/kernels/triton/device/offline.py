"""Compilation for a GPU in a process that does not touch it: no context on the device, none of its memory."""

from typing import Any

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

Target = tuple[str, Any, int]  # backend, architecture, threads of a warp


def target_of(device: torch.device) -> Target:
    """Return what Triton compiles for on a device."""
    with torch.cuda.device(device):
        target = driver.active.get_current_target()
    return target.backend, target.arch, target.warp_size


def compile_for(target: Target) -> None:
    """Let this process compile for that target from now on, and launch nothing."""
    driver.set_active(NoDevice(GPUTarget(*target)))


class NoDevice:
    """The part of a driver that Triton's compiler asks for."""

    def __init__(self, target: GPUTarget) -> None:
        self._target = target

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0
