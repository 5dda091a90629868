"""The record of a type of device: all that the rest of the package knows of it."""

import platform
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from bitnet_jit.devices.clock import Measure, measure_by_clock
from bitnet_jit.problem import Gpu

Fill = Callable[[memoryview, int], None]  # fills the memory with the bytes from an offset of a source on
ADDRESSES = 2**47  # bytes that a process can address: the limit where a device's memory is not known


def nothing() -> None:
    """Do nothing."""


@dataclass(frozen=True)
class DeviceKind:
    """All that is known of one type of device; what is left out holds for a device of which nothing is known.

    Attributes:
        type: torch's word, such as "cuda".
        count: the number of such devices that torch can use here.
        fingerprint: device -> a name that two unlike devices never share; None: the type and the operating system.
        gpu: device -> what kernels may know of a GPU; None on other devices.
        current: device -> a context in which it is the current one.
        is_capturing: whether a graph is being captured, in which nothing can be timed.
        synchronize: waits until the device has done all that it was told.
        total_memory: device -> bytes that it has.
        memory_in_use: device -> bytes of it that this process has taken; None: torch or the system is asked.
        unified: whether its memory is the CPU's: what is taken of one is taken of the other.
        measure: (calls, sets of arguments) -> what times calls that take the sets in turn.
        table: GPU or None -> the name of the shipped table of choices for such devices; None: the type.
        default_dtype: of activations, where a model does not say.
        times_alone: whether nothing else may run in this process's machine while calls are timed: kernels are compiled
            before, not beside it.
        copies: device -> its `Copies`, which move tensors beside its work; None where copies wait for all else.
        own_random_state: whether the device draws random numbers by itself.
        compiled_training: whether training pays for torch.compile by default.
        mixed_sums: whether torch.mm of half types can give its float32 sums.
        capture: (function of no arguments, device) -> a replay of what it launches, and the tensor that it returns,
            which each replay fills anew; None where nothing can be captured.
        records: whether what our kernels do there can be recorded and done again (`ops/program.py`).
        upload: (tensor there, what fills memory from an offset on) -> fills the tensor; None: by a copy on the CPU.
        to_fill: tensor on the CPU -> one like it from which copies to the device do not wait.
        give_back: gives memory that was freed, and that the process still holds, to the system.
        prompt_tokens: tokens of prompts in one step of a model: more are no faster, and take more memory.
        begin_fetch: tensor -> what waits for it and gives it back on the CPU; later work does not delay it.
        failure_words: what a RuntimeError says where the device itself has failed: its driver, or a launch.
        tensors: torch's word for the device on which tensors of its calls lie, where torch does not know the type; "".
        title: number of the device -> its heading for people; None: its name in torch.
        describe: device -> what people want to know, by name.
    """

    type: str
    count: Callable[[], int] = lambda: 0
    fingerprint: Callable[[Any], str] | None = None
    gpu: Callable[[Any], Gpu | None] = lambda device: None
    current: Callable[[Any], AbstractContextManager[Any]] = nullcontext
    is_capturing: Callable[[], bool] = lambda: False
    synchronize: Callable[[], None] = nothing
    total_memory: Callable[[Any], int] = lambda device: ADDRESSES
    memory_in_use: Callable[[Any], int] | None = None
    unified: bool = False
    measure: Callable[[Sequence[Callable[..., Any]], Sequence[tuple[Any, ...]]], Measure] = measure_by_clock
    table: Callable[[Gpu | None], str] | None = None
    default_dtype: str = "bfloat16"
    times_alone: bool = False
    own_random_state: bool = False
    compiled_training: bool = False
    mixed_sums: bool = False
    capture: Callable[[Callable[[], Any], Any], tuple[Callable[[], object], Any]] | None = None
    records: bool = False
    upload: Callable[[Any, Fill], None] | None = None
    to_fill: Callable[[Any], Any] = lambda tensor: tensor
    give_back: Callable[[], None] = nothing
    prompt_tokens: int = 1024
    begin_fetch: Callable[[Any], Callable[[], Any]] = lambda tensor: lambda: tensor
    failure_words: tuple[str, ...] = ()
    copies: Callable[[Any], Any] | None = None
    tensors: str = ""
    title: Callable[[int], str] | None = None
    describe: Callable[[Any], dict[str, str]] = lambda device: {}

    @property
    def tensor_type(self) -> str:
        """Return torch's word for the type of device on which tensors of its calls lie."""
        return self.tensors or self.type

    def name(self, device: Any) -> str:
        """Return the fingerprint of a device of this type."""
        return self.fingerprint(device) if self.fingerprint else f"{device.type}/{platform.platform()}"
