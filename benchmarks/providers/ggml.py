"""Providers of ggml: ternary TQ2_0 and 4-bit Q4_0, float32 in and out, by the libraries inside llama-cpp-python."""

from functools import partial

from benchmarks.harness.contender import Contender, Provider
from benchmarks.harness.work import Work
from benchmarks.providers import ggml_library

TOLERANCES = {
    "tq2_0": 0.02,  # the activations in 8 bits, the scale in float16
    "q4_0": 0.12,  # of -1 and 1 one lies outside its 16 levels and is stored as 7/8
}
BLOCKS = {"tq2_0": (256, 66), "q4_0": (32, 18)}  # inputs, bytes


def build(kind: str, work: Work, copies: int) -> Contender:
    library = ggml_library.load()
    matmul = ggml_library.MatMul(library, kind, work.w, work.x, copies)
    return Contender(f"ggml_{kind}", matmul.run, matmul.result, matmul.num_bytes, work.num_ops, library.set_threads)


def unsupported_reason(kind: str, work: Work) -> str | None:
    if work.device != "cpu":
        return f"drives ggml's CPU backend only, not {work.device}"
    if ggml_library.load() is None:
        return "ggml is not installed (pip install llama-cpp-python)"
    inputs, _ = BLOCKS[kind]
    if work.shape.in_features % inputs:
        return f"ggml's {kind} needs in_features to be a multiple of {inputs}, got {work.shape.in_features}"
    return None


def num_bytes(kind: str, work: Work) -> int:
    inputs, size = BLOCKS[kind]
    return work.shape.out_features * -(-work.shape.in_features // inputs) * size


PROVIDERS = tuple(
    Provider(
        f"ggml_{kind}",
        partial(build, kind),
        lambda work: work.y_unquantized,
        tolerance,
        partial(num_bytes, kind),
        partial(unsupported_reason, kind),
    )
    for kind, tolerance in TOLERANCES.items()
)
