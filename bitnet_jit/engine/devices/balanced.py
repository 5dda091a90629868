"""`Balanced`: one module on several devices, as a module: each call goes where the fewest rows are at the moment."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock

import torch
from torch import nn

from bitnet_jit.arguments import show
from bitnet_jit.engine.devices.failures import is_device_failure, is_short_of_memory
from bitnet_jit.engine.tensors.infer import check_module, device_of, forward
from bitnet_jit.errors import DeviceFailed, InvalidInput

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class Member:
    """One of the modules.

    Attributes:
        module, device: the module, and where it is; None: where its input is.
        rows: that it computes at the moment.
        calls: that it has made.
        failure: why it is not asked any more, or "".
    """

    module: nn.Module
    device: torch.device | None
    rows: int = 0
    calls: int = 0
    failure: str = ""


class Balanced(nn.Module):
    """Shares calls out among copies of a module. A device that fails is taken out, and its call is made elsewhere.

    It has no parameters of its own, so that inputs are not moved before a device is chosen. Any number of threads may
    call it.

    Args:
        modules: the same module on several devices, in eval mode.

    Attributes:
        members: the modules, those that have failed among them.

    Raises:
        InvalidInput: there is none, or one is no module or would treat rows at random.

    >>> layer = nn.Linear(8, 3)
    >>> Balanced([layer, layer])(torch.ones(5, 8)).shape
    torch.Size([5, 3])
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__()
        if isinstance(modules, nn.Module) or not isinstance(modules, Sequence) or not modules:
            raise InvalidInput(f"modules: expected a list of modules, got {show(modules)}")
        for module in modules:
            check_module(module)
        self.members = tuple(Member(module, device_of(module)) for module in modules)
        self._lock = Lock()
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the module makes of x, on the device of x.

        Raises:
            DeviceFailed: no device is left.
            OutOfMemory, torch.OutOfMemoryError: no device has memory for x.
        """
        rows, refused, short = x.numel(), set[Member](), None
        while (member := self._begin(rows, refused)) is not None:
            place = member.device or x.device
            try:
                return forward(member.module, x, member.device)
            except (RuntimeError, MemoryError) as error:
                if is_short_of_memory(error, place):
                    short = error
                elif is_device_failure(error, place):
                    member.failure = str(error)
                else:
                    raise
                refused.add(member)
                logger.warning("%s could not make a call, which another device makes: %s", place, error)
            finally:
                with self._lock:
                    member.rows -= rows
        if short is not None:
            raise short
        reasons = "; ".join(f"{member.device}: {member.failure}" for member in self.members)
        raise DeviceFailed(f"no device of the module is left ({reasons})")

    def _begin(self, rows: int, refused: set[Member]) -> Member | None:
        """Return the member for a call, of those that have not refused it; None where there is none."""
        with self._lock:
            left = [member for member in self.members if not member.failure and member not in refused]
            if not left:
                return None
            member = min(left, key=lambda one: (one.rows, one.calls))
            member.rows += rows
            member.calls += 1
            return member
