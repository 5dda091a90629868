"""The contenders of bench_decode.py by their names: ours for each packing and activation, and the others.

A contender is a function (shape, device, head) that does all that needs no model, and returns a function that makes it.
"""

from collections.abc import Callable
from functools import partial

from benchmarks.harness.models.shapes import ModelShape
from benchmarks.harness.models.turns import Model
from benchmarks.providers.models import llama_cpp, ours, transformers
from bitnet_jit.packing import FORMATS
from bitnet_jit.problem import ACTIVATIONS

Prepare = Callable[[ModelShape, str, str], Callable[[], Model]]

OURS = "bitnet_jit"
PACKINGS = tuple(FORMATS)
OTHERS: dict[str, Prepare] = {
    "llama_cpp": partial(llama_cpp.prepare, "llama_cpp"),
    "transformers_patched": partial(transformers.prepare, "transformers_patched"),
    "transformers_dense": partial(transformers.prepare, "transformers_dense"),
}
VARIANTS: dict[str, Prepare] = {
    ours.name_of(packing, activation): partial(ours.prepare, packing, activation)
    for packing in PACKINGS
    for activation in ACTIVATIONS
}
CONTENDERS = VARIANTS | OTHERS
NAMES = (OURS, *OTHERS)  # as on the command line


def expanded(names: tuple[str, ...], packings: tuple[str, ...], activations: tuple[str, ...]) -> tuple[str, ...]:
    """Return names of the command line as those of `CONTENDERS`, ours once for each packing and activation.

    >>> expanded(("bitnet_jit", "llama_cpp"), ("i2", "t5"), ("a8",))
    ('bitnet_jit', 'bitnet_jit_t5', 'llama_cpp')
    """
    variants = [ours.name_of(packing, activation) for packing in packings for activation in activations]
    return tuple(each for name in names for each in (variants if name == OURS else [name]))
