"""A whole program in Metal, with the signature that it has, compiled by the host harness.

`fake_mps` gets it from our launcher, `fake_mlx` from MLX itself. What the signature says is checked: buffers are
numbered in their order, places of threads are asked by their own names. It is compiled twice: to run, and once only to
see that the address spaces of its pointers are kept apart, as Metal asks.
"""

import re
from collections.abc import Sequence
from itertools import count

import numpy as np

from bitnet_jit.kernels.metal.source import compact, text_of
from metal_host.host import HERE, HOST, LIBRARY, compiled

SEEDS = count()  # each call has threads run in another order
SIGNATURE = re.compile(r"(?:\[\[kernel\]\]|kernel) void (\w+)\((.*?)\) \{", re.DOTALL)
BUFFER = re.compile(r"(const device|const constant|constant|device) (\w+)([*&]) (\w+) \[\[buffer\((\d+)\)\]\]")
PLACE = re.compile(r"uint3? (\w+) \[\[(\w+)\]\]")
PLACES = {
    "threadgroup_position_in_grid": "place->group",
    "thread_index_in_threadgroup": "place->thread_",
    "thread_index_in_simdgroup": "place->lane",
    "simdgroup_index_in_threadgroup": "place->simdgroup",
}
SMALL = "typedef half float16_t;\ntypedef bfloat bfloat16_t;\n"  # MLX's names
# Metal before 4.0 is C++14; what newer C++ is in host.h, a header of the system here, does not count
DIALECT = (
    "-std=c++14",
    "-isystem",
    str(HERE),
    "-Wno-everything",
    "-Werror=c++17-extensions",
    "-Werror=c++20-extensions",
)
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


class Program:
    """A kernel.

    Attributes:
        buffers: (space, type, "*" or "&", name) of each, in order.
    """

    def __init__(self, text: str) -> None:
        assert text.isascii(), "torch hands sources over as ASCII"
        ((self.name, signature),) = SIGNATURE.findall(text)
        matches = [match.groups() for match in BUFFER.finditer(signature)]
        assert [int(place) for *_, place in matches] == list(range(len(matches)))
        assert signature.count("[[buffer") == len(matches)
        self.buffers = [buffer for *buffer, _ in matches]
        places = [match.groups() for match in PLACE.finditer(signature)]
        assert all(name == attribute for name, attribute in places)
        arguments = [
            f"{'*' if how == '&' else ''}({kind}*)buffers[{i}]" for i, (_, kind, how, _) in enumerate(self.buffers)
        ]
        arguments += [PLACES[name] for name, _ in places]
        rest = text.replace(compact(text_of("vocabulary/metal.h")), "")
        assert len(rest) < len(text)
        rest = SMALL + rest.replace("[[kernel]] void", "static void").replace("kernel void", "static void")
        check_address_spaces(rest)
        whole = PROGRAM.format(text=rest, name=self.name, arguments=", ".join(arguments))
        self.library = compiled(whole, ".so", (*LIBRARY, "-Wno-unknown-attributes"))

    def run(self, buffers: Sequence[np.ndarray], threads: tuple[int, ...], group: tuple[int, ...]) -> list[np.ndarray]:
        """Run a grid of so many threads in threadgroups of a size; return the buffers as it left them."""
        assert len(buffers) == len(self.buffers)
        assert len(threads) == len(group) == 3
        assert group[1:] == (1, 1)
        assert threads[0] % group[0] == 0, "a threadgroup that is not full"
        left = HOST.run(self.library, buffers, (threads[0] // group[0], *threads[1:]), group[0], seed=next(SEEDS))
        for (space, *_, name), before, after in zip(self.buffers, buffers, left, strict=True):
            assert space == "device" or before.tobytes() == after.tobytes(), f"{name} was written"
        return left


def check_address_spaces(text: str) -> None:
    """Raise HostFault where pointers to unlike memory are mixed."""
    whole = f'#define ADDRESS_SPACES\n#define PLACE_AS_PARAMETERS\n#include "host.h"\n{text}'
    compiled(whole, ".checked", ("-fsyntax-only", *DIALECT))
