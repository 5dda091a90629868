"""Torch tensors to the addresses that Numba kernels take: allocate the outputs, take scratch memory, launch.

A call is written as source text for its kernel's operands, as dataclasses write their methods: every tenth of a
microsecond counts here, and a loop over operands takes several.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch._C._dynamo import guards

from bitnet_jit.devices.strided import NO_MEMORY, row_distance, strides
from bitnet_jit.devices.threads import THREADS
from bitnet_jit.devices.workspace import Workspace
from bitnet_jit.errors import InvalidInput
from bitnet_jit.kernels.backend import Call
from bitnet_jit.kernels.numba.bound import ROW_STRIDE, Bound, Entry
from bitnet_jit.kernels.numba.threads.fork import Fork
from bitnet_jit.kernels.numba.threads.parallel import TEAM_BYTES
from bitnet_jit.kernels.operands import Operands

PARTS = ("gate", "up", "mixed")  # may be parts of a wider tensor
FORK = Fork()
WORKSPACE = Workspace()
# (shape, strides, dtype) -> a tensor; as Inductor's code allocates, in half the time of new_empty
empty_strided: Any = guards._empty_strided_cpu  # type: ignore[attr-defined]


def bind_call(bound: Bound, operands: Operands) -> Call:
    """Return the call of a kernel: (*arguments) -> its output or outputs.

    Its attribute `into` takes the outputs before the arguments, contiguous tensors, and writes over them; `prepare`
    takes ((shape, strides, dtype) -> tensor, bytes -> address of scratch memory) before contiguous arguments, and
    returns what runs the kernel on these tensors, and the outputs; those whose names are `in_rows` may also be rows at
    one distance. Calls of any number of rows give outputs that begin with the dimensions with which their first
    argument begins.
    """
    if not operands.rows and not operands.varying:
        return lambda *arguments: empty_outputs(operands)
    scope = scope_of(bound, operands)
    exec("\n".join(source(bound, operands)), scope)
    call: Any = scope["call"]
    call.into, call.prepare = scope["into"], scope["prepare"]
    call.in_rows = parts_of(bound, operands)
    bound_call: Call = call
    return bound_call


def launch_team(entry: Entry, *numbers: int) -> None:
    """Run a kernel whose scratch memory is a team's counters alone, on as many threads as there are."""
    entry(None, FORK.address, THREADS.get(), *numbers, WORKSPACE.take(TEAM_BYTES))


def parts_of(bound: Bound, operands: Operands) -> tuple[str, ...]:
    """Return the names of the operands that are taken as rows at one distance."""
    return tuple(name for name in operands.arguments if name in PARTS) if ROW_STRIDE in bound.operands else ()


def in_rows(*parts: torch.Tensor) -> tuple[Any, ...]:
    """Return tensors (..., K) as rows at one distance, and that distance in elements; copied if need be."""
    distances = {row_distance(part) for part in parts}
    if len(distances) == 1 and 0 not in distances:
        return *parts, *distances
    return *(part.contiguous() for part in parts), parts[0].shape[-1]


def empty_outputs(operands: Operands) -> Any:
    """Return the outputs of a call without rows: empty ones, and zeros for sums over the rows."""
    tensors = tuple(
        torch.zeros(output.shape, dtype=getattr(torch, output.dtype), device="cpu") for output in operands.outputs
    )
    return tensors if len(tensors) > 1 else tensors[0]


def scope_of(bound: Bound, operands: Operands) -> dict[str, Any]:
    """Return the names that the source of a call uses."""
    rows = max(operands.rows, 1)
    scope: dict[str, Any] = {
        "InvalidInput": InvalidInput,
        "NO_MEMORY": NO_MEMORY,
        "empty_strided": empty_strided,
        "entry": bound.entry(rows),
        "fork": FORK,
        "get_threads": THREADS.get,
        "in_rows": in_rows,
        "max_threads": bound.max_threads,
        "numbers": bound.numbers(rows),  # kept here: one of them may be the address of memory that it owns
        "take": WORKSPACE.take,
        "workspace_bytes": bound.workspace_bytes,
    }
    if not operands.varying:
        scope |= {"rows": rows, "num_bytes": bound.workspace_bytes(rows, 1)}
    for output in operands.outputs:
        scope[f"{output.name}_memory"] = (output.shape, strides(output.shape), getattr(torch, output.dtype))
        scope[f"{output.name}_dtype"] = getattr(torch, output.dtype)
    return scope | {f"number_{place}": number for place, number in enumerate(scope["numbers"])}


def source(bound: Bound, operands: Operands) -> Iterator[str]:
    """Yield the lines of a call, of `into` and of `prepare`."""
    arguments, outputs = ", ".join(operands.arguments), [output.name for output in operands.outputs]
    results = ", ".join(outputs)
    yield f"def into({results}, {arguments}):"
    yield from measure(operands, results)
    yield from launch(bound, operands)
    yield f"    return {results}"
    for head in (f"def call({arguments}):", f"def prepare(empty_strided, take, {arguments}):"):
        yield head
        prepares = "prepare" in head
        if operands.varying:
            yield from measure(operands, results, allocate_any(operands))
            yield from launch(bound, operands, prepares=prepares)
        else:
            allocate = [f"{name} = empty_strided(*{name}_memory)" for name in outputs]
            yield from launch(bound, operands, allocate, prepares)
        yield f"    return run, ({results},)" if prepares else f"    return {results}"


def measure(operands: Operands, results: str, allocate: list[str] | None = None) -> Iterator[str]:
    """Yield the lines that count the rows of a call for any number of them, and allocate outputs."""
    if not operands.varying:
        return
    first = operands.inputs[0]
    yield f"    leading = {first.name}.shape[:{len(operands.leading) - len(first.shape)}]"
    yield "    rows = leading.numel()"
    yield from (f"    {line}" for line in allocate or ())
    yield f"    if not rows: return {results}"


def allocate_any(operands: Operands) -> list[str]:
    """Return the lines that allocate outputs for `rows` rows, each of one dimension more than `leading` has."""
    lines = []
    for output in operands.outputs:
        features = output.shape[-1]
        assert len(output.shape) == len(operands.leading) + 1
        lines.append(f"{output.name} = empty_strided((rows, {features}), ({features}, 1), {output.name}_dtype)")
        lines.append(f"if len(leading) != 1: {output.name} = {output.name}.view(*leading, {features})")
    return lines


def launch(
    bound: Bound, operands: Operands, allocate: list[str] | None = None, prepares: bool = False
) -> Iterator[str]:
    """Yield the lines that check the tensors, allocate the outputs, and enter the kernel, or define `run` for that."""
    tensors = [operand.name for operand in operands.inputs if operand.dtype]
    rows = parts_of(bound, operands)
    if rows:
        yield f"    {ROW_STRIDE} = {operands.problem.in_features}"
        parts, whole = ", ".join(rows), " and ".join(f"{name}.is_contiguous()" for name in rows)
        yield f"    if not ({whole}): {parts}, {ROW_STRIDE} = in_rows({parts})"
    for name in tensors:
        if name not in rows:
            yield f"    if not {name}.is_contiguous(): {name} = {name}.contiguous()"
        yield f"    {name}_at = {name}.data_ptr()"
    yield f"    if not ({' and '.join(f'{name}_at' for name in tensors)}): raise InvalidInput(NO_MEMORY)"
    yield from (f"    {line}" for line in allocate or ())
    yield from (f"    {output.name}_at = {output.name}.data_ptr()" for output in operands.outputs)
    yield "    threads = get_threads()"
    if bound.max_threads is not None:
        yield "    if threads > max_threads: threads = max_threads"
    addresses = {name: f"{name}_at" for name in (*tensors, *(output.name for output in operands.outputs))}
    handed = [
        addresses.get(name, name) if isinstance(name, str) else "0" if name is None else repr(name)
        for name in bound.operands
    ]
    if operands.varying:
        sizes = [f"size_{place}" for place in range(len(bound.sizes))]
        yield from (f"    {size} = {name}.shape[{at}]" for size, (name, at) in zip(sizes, bound.sizes, strict=True))
        yield f"    num_bytes = workspace_bytes({', '.join(('rows', 'threads', *sizes))})"
        handed += ["rows", *sizes, "num_bytes"]
    else:
        handed += [f"number_{place}" for place in range(len(bound.numbers(operands.rows)))]
    alike = operands.varying or bound.max_threads is None
    num_bytes = "num_bytes" if alike else "workspace_bytes(rows, threads)"
    if prepares:
        yield f"    workspace = take({num_bytes})"
        yield f"    def run(): entry(None, fork.address, threads, {', '.join(handed)}, workspace)"
    else:
        yield f"    entry(None, fork.address, threads, {', '.join(handed)}, take({num_bytes}))"
