"""Programs: what a function has torch and kernels do, found out once and done again without asking.

A step of a model is hundreds of short kernels, and what stands between them (finding calls, allocating outputs) takes
Python and torch a sixth of the time of a token on a CPU. `record` runs a function under a mode that sees every op,
binds each kernel to the addresses that it will be called with, and keeps the list. Where a GPU captures graphs, those
are better; see `DeviceKind.capture`.
"""

import weakref
from collections import defaultdict
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bitnet_jit.devices.strided import row_distance, strides
from bitnet_jit.ops.op import OPS, Op

Step = Callable[[], object]


class Arena:
    """Memory of a program: what one step gives back to nobody's use, a later step of the program takes."""

    def __init__(self) -> None:
        self._free: dict[int, list[torch.Tensor]] = defaultdict(list)

    def empty(self, shape: Sequence[int], _strides: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """Return an uninitialized, contiguous tensor, whose memory comes back when no tensor looks at it."""
        num_bytes = prod(shape) * dtype.itemsize
        free = self._free[num_bytes]
        block = free.pop() if free else torch.empty(num_bytes, dtype=torch.uint8, device="cpu")
        view = block.numpy()[:]  # lives as long as the tensors that are made of it
        weakref.finalize(view, free.append, block).atexit = False
        return torch.from_numpy(view).view(dtype).view(*shape)


class Scratch:
    """Scratch memory, which all steps of a program share: what has been taken stays where it is."""

    def __init__(self) -> None:
        self._blocks = [torch.empty(1 << 16, dtype=torch.uint8, device="cpu")]

    def take(self, num_bytes: int) -> int:
        """Return the address of at least that many bytes, 64-byte aligned and uninitialized."""
        if self._blocks[-1].nbytes < num_bytes:
            self._blocks.append(torch.empty(2 * num_bytes, dtype=torch.uint8, device="cpu"))
        return self._blocks[-1].data_ptr()


class Recorder(TorchDispatchMode):
    """The mode that sees the ops of a function.

    Attributes:
        steps: what they do, in order.
        names: of the ops that they come from, one for each step.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.steps: list[Step] = []
        self.names: list[str] = []
        self._arena, self._scratch = Arena(), Scratch()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        op = OPS.get(func._opname) if func.namespace == "bitnet_jit" else None
        if op is not None:
            return self._call(op, args)
        with self:  # in inference mode ops come whole, and some of those say that they are views where they may copy
            result = func.decompose(*args, **(kwargs or {}))
        if result is not NotImplemented:
            return result
        if torch.Tag.data_dependent_output in func.tags:
            raise RuntimeError(f"{func} looks at the values of a tensor, which a recorded step cannot")
        if func.is_view:
            return func(*args, **(kwargs or {}))
        return self._repeat(func._opname, lambda: func(*args, **(kwargs or {})))

    def _call(self, op: Op, args: tuple[Any, ...]) -> Any:
        """Bind the call of an op to where its tensors lie."""
        call = op.find(*args)
        prepare = getattr(call, "prepare", None)
        if prepare is None and op.steps is not None:
            with self:
                return op.steps(*args)
        arguments = {argument.name: value for argument, value in zip(op.spec.arguments, args, strict=False)}
        parts = getattr(call, "in_rows", ())
        distances = {row_distance(arguments[name]) for name in parts}
        as_they_are = parts if len(distances) == 1 and 0 not in distances else ()
        operands = [
            arguments[name] if name in as_they_are else self._whole(arguments[name]) for name in op.spec.operands
        ]
        if prepare is None:
            return self._repeat(op.spec.name, lambda: call(*operands))
        step, outputs = prepare(self._arena.empty, self._scratch.take, *operands)
        self._append(op.spec.name, step)
        return outputs if len(outputs) > 1 else outputs[0]

    def _whole(self, value: Any) -> Any:
        """Return a tensor's values side by side, copied in every run if need be; another operand as it is."""
        if not isinstance(value, torch.Tensor) or value.is_contiguous():
            return value
        whole = self._arena.empty(value.shape, strides(value.shape), value.dtype)
        self._append("copy", lambda: whole.copy_(value))
        return whole

    def _append(self, name: str, step: Step) -> None:
        """Add a step of an op of that name."""
        self.steps.append(step)
        self.names.append(name)

    def _repeat(self, name: str, run: Callable[[], Any]) -> Any:
        """Do something now, and in every run, whose results lie where the first ones do."""
        first = run()
        kept = tensors_of(first)

        def step() -> None:
            for place, new in zip(kept, tensors_of(run()), strict=True):
                if new is not place:  # what an op writes into it gives back as it is
                    place.copy_(new)

        self._append(name, step)
        return first


def tensors_of(result: Any) -> tuple[torch.Tensor, ...]:
    """Return the tensors that an op has given back."""
    parts = result if isinstance(result, tuple | list) else (result,)
    return tuple(part for part in parts if isinstance(part, torch.Tensor))


def record(function: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
    """Return what does again all that a function does on the CPU, and the result, which each run fills anew.

    Args:
        function: of tensors that stay where they are, and whose shapes are the same in every run. Its kernels are
            bound, not run; torch's own operations run once.

    >>> x = torch.ones(2)
    >>> run, y = record(lambda: x + 1)
    >>> _ = x.fill_(5)
    >>> run()
    >>> y
    tensor([6., 6.])
    """
    recorder = Recorder()
    with torch.no_grad(), recorder:
        result = function()
    steps = recorder.steps

    def run() -> None:
        for step in steps:
            step()

    run.recorder = recorder  # type: ignore[attr-defined]  # owns the memory
    return run, result
