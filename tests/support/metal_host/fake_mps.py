"""`torch.mps.compile_shader` in the host harness, for tensors that lie on the CPU.

Each call is compared with the program's signature: as many arguments as it has buffers, in their order and of their
types, whole numbers as 32 bits, tensors without gaps, and a grid of full threadgroups.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from torch.utils._cpp_embed_headers import _embed_headers

from bitnet_jit.kernels.metal.source import TYPES
from bitnet_jit.kernels.mps import tensors
from metal_host.program import Program

allocate = tensors.allocate


class Function:
    """A kernel of a library."""

    def __init__(self, text: str) -> None:
        lines = [f"{line}\n" for line in text.split("\n")]
        self.program = Program(_embed_headers(lines, [Path(torch.__file__).parent / "include"], set()))

    def __call__(self, *arguments, threads, group_size, arg_casts):
        assert len(arguments) == len(self.program.buffers)
        buffers = []
        for place, (argument, (_, kind, how, name)) in enumerate(zip(arguments, self.program.buffers, strict=True)):
            assert how == "*"
            if isinstance(argument, list):
                assert arg_casts == {place: "int32"}
                assert kind == "int"
                buffers.append(np.array(argument, np.int32))
                continue
            assert TYPES[str(argument.dtype).removeprefix("torch.")] == kind, name
            assert argument.is_contiguous(), name
            assert argument.storage_offset() * argument.element_size() % 16 == 0, name
            bits = argument.view(torch.int16) if argument.dtype == torch.bfloat16 else argument
            buffers.append(bits.numpy())
        left = self.program.run(buffers, threads, group_size)
        for (space, *_), before, after in zip(self.program.buffers, buffers, left, strict=True):
            if space == "device":
                before[...] = after  # the tensor's memory


class Library:
    """What `compile_shader` returns."""

    def __init__(self, text: str) -> None:
        function = Function(text)
        setattr(self, function.program.name, function)


@contextmanager
def mps() -> Iterator[None]:
    """Make torch compile shaders; what a call makes begins as NaN."""
    with patch.object(torch.mps, "compile_shader", Library), patch.object(tensors, "allocate", poisoned):
        yield


def poisoned(made, device):
    """Return the tensors that a call makes, all bits set."""
    allocated = allocate(made, device)
    for tensor in allocated.values():
        tensor.view(-1).view(torch.uint8).fill_(0xFF)
    return allocated
