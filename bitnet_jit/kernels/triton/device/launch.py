"""Launches: kernels with everything decided but their addresses, so that running one decides nothing.

The kernels' files return `Launch`es; `prepare` compiles one for the current device. Operands have names, since the
launches of a call share its inputs, its outputs and the scratch tensors between them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import torch

from bitnet_jit.kernels.triton.device.target import interpreted

ALIGN = 16  # Triton makes use of addresses (in bytes) and numbers that are multiples of it
Scratch = dict[str, tuple[int, str]]  # by name: number of elements, dtype


@dataclass(frozen=True)
class Launch:
    """One kernel of a call.

    Attributes:
        function: a @triton.jit function that takes its operands first.
        programs: the number of programs.
        operands: for each leading parameter the name of a tensor (or number) of the call, or None where it has none;
            "name:dtype" sees a tensor's bytes as another dtype.
        constants: the other parameters by name, in order.
        num_warps: of a program.
        max_registers: of a thread, for NVIDIA's assembler; None leaves it alone. Told of more than it would have taken,
            it begins more loads before it waits for the first.
        shared: bytes of shared memory at least, used or not. Fewer programs fit on a multiprocessor then, so that the
            ones of a launch spread over all of them, while those of the launch ahead wait there.
        fuses: the compiler may make one operation of a product and a sum, where the contract does not round twice.
    """

    function: Any
    programs: int
    operands: tuple[str | None, ...]
    constants: Mapping[str, Any]
    num_warps: int
    max_registers: int | None = None
    shared: int = 0
    fuses: bool = False

    @property
    def pdl(self) -> bool:
        """Return whether the kernel may begin before the one ahead of it has ended (see pdl.py)."""
        return bool(self.constants.get("PDL", False))

    @property
    def options(self) -> dict[str, Any]:
        """Return Triton's options: no fused multiply-add, which rounds once where most contracts round twice."""
        pdl = {"launch_pdl": True} if self.pdl else {}
        registers = {"maxnreg": self.max_registers} if self.max_registers and self.constants["ASM"] else {}
        return {"num_warps": self.num_warps, "enable_fp_fusion": self.fuses} | pdl | registers


@dataclass(frozen=True)
class Bound:
    """A kernel bound to a problem, as `ops/` runs it.

    Attributes:
        launches: number of rows -> the launches of a call, in order.
        scratch: number of rows -> the name, number of elements and dtype of each tensor that lives between launches.
    """

    launches: Callable[[int], tuple[Launch, ...]]
    scratch: Callable[[int], Scratch] = lambda rows: {}


@dataclass(frozen=True)
class Varying:
    """A kernel bound to a problem whose calls vary in more sizes than the number of rows.

    Attributes:
        of: the shapes of a call's arguments by name -> the kernel bound to such a call.
    """

    of: Callable[[Mapping[str, tuple[int, ...]]], Bound]


Run = Callable[[int, Sequence[Any]], None]  # (stream, operands in the call's order)


def prepare(launch: Launch, names: tuple[str, ...], kinds: Mapping[str, Any]) -> Run:
    """Compile a launch for the current device.

    Args:
        launch: the launch to compile.
        names: the operands that a call hands over, in its order; a None stands behind the last.
        kinds: for each name torch's dtype of the tensor, or a number like the one that will be handed over.

    Returns:
        (stream, operands) -> None. Tensors are handed over by address, a multiple of ALIGN; to the interpreter whole.
    """
    places = [len(names) if name is None else names.index(name.partition(":")[0]) for name in launch.operands]
    if interpreted():
        return interpret(launch, places)
    constants, grid, kernel = tuple(launch.constants.values()), (launch.programs, 1, 1), compiled(launch, kinds)
    kernel[grid]  # loads it
    warps, ctas, shared, *others = kernel.packed_metadata
    metadata = (warps, ctas, max(shared, launch.shared), *others)
    run, function, pick = kernel.run, kernel.function, itemgetter(*places)
    # as Triton itself launches, without its hooks: a microsecond less than by kernel[grid]
    return lambda stream, operands: run(
        *grid, stream, function, metadata, None, None, None, *pick(operands), *constants
    )


def compiled(launch: Launch, kinds: Mapping[str, Any]) -> Any:
    """Return Triton's kernel of a launch, from Triton's disk cache if it is there."""
    operands, grid = (*example(launch, kinds), *launch.constants.values()), (launch.programs, 1, 1)
    return launch.function.warmup(*operands, grid=grid, **launch.options)


def example(launch: Launch, kinds: Mapping[str, Any]) -> list[Any]:
    """Return an example of each operand for the compiler: a dtype, a number, or None."""
    kinds_of_operands: list[Any] = []
    for operand in launch.operands:
        name, _, dtype = (operand or "").partition(":")
        kinds_of_operands.append(getattr(torch, dtype) if dtype else kinds.get(name))
    return kinds_of_operands


def interpret(launch: Launch, places: list[int]) -> Run:
    """Return the run of a launch in Triton's interpreter, which takes tensors."""
    kernel, constants = launch.function[(launch.programs, 1, 1)], tuple(launch.constants.values())
    dtypes = [(operand or "").partition(":")[2] for operand in launch.operands]

    def run(stream: int, operands: Sequence[Any]) -> None:
        picked = [operands[place] for place in places]
        views = [a.view(getattr(torch, dtype)) if dtype else a for a, dtype in zip(picked, dtypes, strict=True)]
        kernel(*views, *constants, **launch.options)

    return run
