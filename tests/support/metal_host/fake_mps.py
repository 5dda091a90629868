"""`torch.mps.compile_shader` in the host harness: the whole program is compiled with the signature that it has.

Each call is compared with that signature: as many arguments as it has buffers, in their order and of their types, whole
numbers as 32 bits, and a grid of full threadgroups.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from torch.utils._cpp_embed_headers import _embed_headers

from bitnet_jit.kernels.metal.source import TYPES, text_of
from bitnet_jit.kernels.mps import tensors
from metal_host.host import LIBRARY, Host, compiled

HOST = Host()
allocate = tensors.allocate
SEEDS = count()  # each call has threads run in another order
SIGNATURE = re.compile(r"kernel void (\w+)\((.*?)\) \{", re.DOTALL)
BUFFER = re.compile(r"(const device|constant|device) (\w+)\* (\w+) \[\[buffer\((\d+)\)\]\]")
PLACE = re.compile(r"uint3? (\w+) \[\[(\w+)\]\]")
PLACES = {
    "threadgroup_position_in_grid": "place->group",
    "thread_index_in_threadgroup": "place->thread_",
    "thread_index_in_simdgroup": "place->lane",
    "simdgroup_index_in_threadgroup": "place->simdgroup",
}
PROGRAM = """
#define PLACE_AS_PARAMETERS
#include "host.h"
{text}
extern "C" void set_services(const host::Services* given) {{ host::services = *given; }}
extern "C" void run(void** buffers) {{
  const host::Place* place = host::services.place();
  {name}({arguments});
}}
"""


class Function:
    """A kernel of a program."""

    def __init__(self, text: str) -> None:
        assert text.isascii(), "torch hands sources over as ASCII"
        lines = [f"{line}\n" for line in text.split("\n")]
        text = _embed_headers(lines, [Path(torch.__file__).parent / "include"], set())
        (self.name, signature), *more = SIGNATURE.findall(text)
        assert not more
        self.buffers = [match.groups() for match in BUFFER.finditer(signature)]
        assert [int(place) for *_, place in self.buffers] == list(range(len(self.buffers)))
        places = [match.groups() for match in PLACE.finditer(signature)]
        assert all(name == attribute for name, attribute in places)
        arguments = [f"({kind}*)buffers[{place}]" for _, kind, _, place in self.buffers]
        arguments += [PLACES[name] for name, _ in places]
        rest = text.replace(text_of("vocabulary/metal.h").rstrip(), "")
        assert len(rest) < len(text)
        self.library = compiled(
            PROGRAM.format(text=rest, name=self.name, arguments=", ".join(arguments)),
            ".so",
            (*LIBRARY, "-Wno-unknown-attributes"),
        )

    def __call__(self, *arguments, threads, group_size, arg_casts):
        assert len(arguments) == len(self.buffers)
        assert len(threads) == len(group_size) == 3
        assert group_size[1:] == (1, 1)
        assert threads[0] % group_size[0] == 0, "a threadgroup that is not full"
        buffers = []
        for place, (argument, (_, kind, name, _)) in enumerate(zip(arguments, self.buffers, strict=True)):
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
        groups = (threads[0] // group_size[0], *threads[1:])
        left = HOST.run(self.library, buffers, groups, group_size[0], seed=next(SEEDS))
        for (space, _, name, _), before, after in zip(self.buffers, buffers, left, strict=True):
            if space == "device":
                before[...] = after  # the tensor's memory
            else:
                assert before.tobytes() == after.tobytes(), name


class Library:
    """What `compile_shader` returns."""

    def __init__(self, text: str) -> None:
        function = Function(text)
        setattr(self, function.name, function)


@contextmanager
def mps() -> Iterator[None]:
    """Make torch compile shaders, for tensors that lie on the CPU; what a call makes begins as NaN."""
    with patch.object(torch.mps, "compile_shader", Library), patch.object(tensors, "allocate", poisoned):
        yield


def poisoned(made, device):
    """Return the tensors that a call makes, all bits set."""
    allocated = allocate(made, device)
    for tensor in allocated.values():
        tensor.view(-1).view(torch.uint8).fill_(0xFF)
    return allocated
