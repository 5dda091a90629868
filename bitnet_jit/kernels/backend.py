"""The record that every backend fills in: all that the rest of the package knows of a kernel language.

A record is imported without the backend's package (Numba, Triton, ...). Its functions import what they need when they
are first called, so that a package is loaded only when a problem asks for it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bitnet_jit.kernels.operands import Operands

if TYPE_CHECKING:
    from bitnet_jit.kernels.kernel import Kernel
    from bitnet_jit.packing.layout import Layout
    from bitnet_jit.packing.stored import Stored

Call = Callable[..., Any]


@dataclass(frozen=True)
class Rates:
    """What a device does at most per second.

    Attributes:
        bytes: read from memory.
        operations: of int8, or of float32 where kernels multiply codes in that, a multiply-add counted as two; 0 where
            no kernel measures it.
        origin: where both come from, in words.
    """

    bytes: float
    operations: float
    origin: str = "measured here"


@dataclass(frozen=True)
class Offline:
    """How kernels are compiled in a process of their own, into a cache on disk from which other processes load them.

    Attributes:
        target: device -> what is compiled for, which can be pickled; None where nothing has to be told.
        prepare: target -> None; makes this process compile for it without touching the device.
        compile: (bound kernel, operands) -> None.
    """

    target: Callable[[Any], Any]
    prepare: Callable[[Any], None]
    compile: Callable[[Any, Operands], None]


def nothing_disabled() -> None:
    """Return no reason: nothing switches the backend off."""
    return None


def no_layout() -> None:
    """Return no layout: weights in training have the layout that all have."""
    return None


def nothing_to_say() -> dict[str, str]:
    """Return no lines."""
    return {}


@dataclass(frozen=True)
class Backend:
    """All that is known of one kernel language.

    Attributes:
        name: the folder under `kernels/`; names of kernels begin with it.
        kernels: the kernels, in order of preference.
        bind_call: (bound kernel, operands, device) -> what runs on torch tensors: it takes the operands' arguments in
            order and returns the outputs.
        packages: what must be installed.
        device_types: torch's words for the devices that it serves; empty means every device.
        priority: the backend of the highest priority is asked first.
        fallback: whether it is the plain implementation, whose use on a device with other backends is logged.
        layouts: how it wants packed weights, the preferred one of a format first.
        layouts_need_package: False where `layouts` needs no package, so that a weight that was laid on another machine
            can be read here.
        training_layout: how it wants weights that a training step has just quantized; None: as it wants all.
        disabled_reason: None, or in words how the user has switched its compiler off, and what to do about it.
        get_ready: does what its first call would wait for and can be done beside other work; None: nothing is slow.
        offline: how it compiles in other processes; None: there is nothing to compile.
        measure_rates: (device, threads) -> what the device does at most, measured or published; None: it cannot tell.
        decode: (how codes are stored, source, `out`, K) -> the numbers of codes 1 and of codes 3 in `out`, which is
            filled with the source's canonical codes (`packing/stored.py`); both are tensors on its device, contiguous.
            None: it has no pass for that.
        describe: what the backend has found on this machine, for people, by name.
    """

    name: str
    kernels: "Callable[[], tuple[Kernel, ...]]"
    bind_call: Callable[[Any, Operands, Any], Call]
    packages: tuple[str, ...] = ()
    device_types: tuple[str, ...] = ()
    priority: int = 0
    fallback: bool = False
    layouts: "Callable[[], tuple[Layout, ...]]" = tuple
    layouts_need_package: bool = True
    training_layout: "Callable[[], Layout | None]" = no_layout
    disabled_reason: Callable[[], str | None] = nothing_disabled
    get_ready: Callable[[], None] | None = None
    offline: Offline | None = None
    measure_rates: Callable[[Any, int], Rates] | None = None
    decode: "Callable[[Stored, Any, Any, int], tuple[int, int]] | None" = None
    describe: Callable[[], dict[str, str]] = nothing_to_say
