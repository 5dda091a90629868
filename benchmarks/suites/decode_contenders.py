"""The contenders of bench_decode.py by their names: ours for each packing, activation and cache, and the others.

A contender is a function (shape, device, head) that does all that needs no model, and returns a function that makes it.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import product

from benchmarks.harness.models.shapes import ModelShape
from benchmarks.harness.models.turns import Model
from benchmarks.providers.models import llama_cpp, ours, transformers
from benchmarks.providers.models.ours import Variant
from bitnet_jit.packing import FORMATS
from bitnet_jit.problem import ACTIVATIONS

Prepare = Callable[[ModelShape, str, str], Callable[[], Model]]

OURS = "bitnet_jit"
PACKINGS, CACHES = tuple(FORMATS), ("auto", "bfloat16", "int8")
OTHERS: dict[str, Prepare] = {
    "llama_cpp": partial(llama_cpp.prepare, "llama_cpp"),
    "transformers_patched": partial(transformers.prepare, "transformers_patched"),
    "transformers_dense": partial(transformers.prepare, "transformers_dense"),
}
VARIANTS: dict[str, Prepare] = {
    variant.name: partial(ours.prepare, variant)
    for variant in (Variant(*words) for words in product(PACKINGS, ACTIVATIONS, CACHES))
}
CONTENDERS = VARIANTS | OTHERS
NAMES = (OURS, *OTHERS)  # as on the command line


def expanded(names: Sequence[str], *words: Sequence[str]) -> tuple[str, ...]:
    """Return names of the command line as those of `CONTENDERS`, ours once for each packing, activation and cache.

    >>> expanded(("bitnet_jit", "llama_cpp"), ("i2", "t5"), ("a8",), ("auto",))
    ('bitnet_jit', 'bitnet_jit_t5', 'llama_cpp')
    """
    variants = [Variant(*each).name for each in product(*words)]
    return tuple(each for name in names for each in (variants if name == OURS else [name]))
