"""The GPUs for which the Triton kernels are promised to compile, and problems of every kernel for them; none is needed.

By default the `representatives` are compiled; `pytest -m exhaustive` compiles all cases.
"""

from dataclasses import dataclass, replace

import pytest

pytest.importorskip("triton", reason="the package triton is not installed")

from triton.backends.compiler import GPUTarget
from triton_calls import BACKEND, operands_of

from bitnet_jit.kernels.kernel import Kernel
from bitnet_jit.kernels.triton.device.launch import Launch, example
from bitnet_jit.kernels.triton.layout import I2_CHUNKS
from bitnet_jit.kernels.triton.tensors import fixed, kinds_of, scratch_of
from bitnet_jit.problem import Gpu, Problem

GPUS = {
    "cuda-80": (GPUTarget("cuda", 80, 32), Gpu("A100", "8.0", 108, 166912)),
    "cuda-89": (GPUTarget("cuda", 89, 32), Gpu("RTX 4090", "8.9", 128, 101376)),
    "cuda-90": (GPUTarget("cuda", 90, 32), Gpu("H200", "9.0", 132, 232448)),
    "cuda-100": (GPUTarget("cuda", 100, 32), Gpu("B200", "10.0", 148, 232448)),
    "cuda-120": (GPUTarget("cuda", 120, 32), Gpu("RTX 5090", "12.0", 170, 101376)),
    "hip-gfx90a": (GPUTarget("hip", "gfx90a", 64), Gpu("MI250X", "gfx90a", 110, 65536)),
    "hip-gfx942": (GPUTarget("hip", "gfx942", 64), Gpu("MI300X", "gfx942", 304, 65536)),
    "hip-gfx1100": (GPUTarget("hip", "gfx1100", 32), Gpu("RX 7900 XTX", "gfx1100", 96, 65536)),
    "hip-gfx1201": (GPUTarget("hip", "gfx1201", 32), Gpu("RX 9070 XT", "gfx1201", 64, 65536)),
}
TAKING_TURNS = [name for name in GPUS if name not in ("cuda-90", "hip-gfx1201")]  # gfx1201 is as gfx1100
ROWS = (1, 4, 16, 64, 128, 2048)  # of the buckets, between which default configs differ
OUT_FEATURES, IN_FEATURES = 8192, 1040  # inputs neither in whole chunks nor padded by `arrange`
A8 = Problem("", "cuda", 1, OUT_FEATURES, IN_FEATURES, "i2/planes", "a8", "int8", "bfloat16", "row", bias="float32")
PROBLEMS = (
    replace(A8, op="bit_linear", x_dtype="bfloat16"),
    replace(A8, op="bit_linear", x_dtype="bfloat16", scale="group", group_size=128),
    replace(A8, op="bit_linear", x_dtype="bfloat16", activation="a16"),
    replace(A8, op="bit_linear", x_dtype="float16", y_dtype="float16", activation="a16"),
    replace(A8, op="bit_linear", x_dtype="float32", y_dtype="float32", activation="a16"),
    replace(A8, op="bit_linear", x_dtype="bfloat16", activation="a16", scale="group", group_size=128),
    replace(
        A8, op="packed_logits", x_dtype="bfloat16", y_dtype="float32", activation="a16", scale="group", group_size=128
    ),
    replace(A8, op="quantized_linear"),
    replace(A8, op="quantized_linear", in_features=4096),
    replace(A8, op="quantized_linear", in_features=IN_FEATURES + 1),
    replace(A8, op="ternary_matmul", y_dtype="int32", scale="", bias=""),
    replace(A8, op="bit_linear", x_dtype="bfloat16", layout="t5/planes"),
    replace(A8, op="bit_linear", x_dtype="bfloat16", layout="t5/planes", activation="a16"),
    *(
        replace(A8, op=f"{first}_bit_linear", x_dtype="bfloat16", w_dtype="bfloat16")
        for first in ("rms_norm", "add_rms_norm", "relu2_mul_norm", "silu_mul_norm")
    ),
    replace(A8, op="bit_linear_input_grad", activation="", x_dtype="float32", y_dtype="float32", bias=""),
    replace(A8, op="bit_linear_input_grad", activation="", x_dtype="bfloat16", bias=""),
    *(
        replace(A8, op="quantize_weight", activation="", x_dtype=dtype, y_dtype="uint8", scale="tensor", bias="")
        for dtype in ("float32", "bfloat16")
    ),
    *(
        replace(A8, op="dequantize_weight", activation="", x_dtype="uint8", scale=scale, bias="")
        for scale in ("tensor", "row")
    ),
    replace(A8, op="dequantize_activation", layout="", activation="", scale="", bias=""),
    *(
        replace(A8, op=op, layout="", activation="", x_dtype="bfloat16", scale="")
        for op in (
            "quantize_activation",
            "rms_norm",
            "rms_norm_gradients",
            "rms_norm_quantize",
            "add_rms_norm",
            "add_rms_norm_quantize",
            "relu2_mul_norm",
            "relu2_mul_norm_quantize",
            "silu_mul_norm",
            "silu_mul_norm_quantize",
            "sigmoid_mul_norm",
            "gelu_mul_norm",
        )
    ),
    *(
        replace(A8, op=op, layout="", activation="", x_dtype="bfloat16", scale="", in_features=5120, block=block)
        for op in ("hadamard", "inverse_hadamard", "rms_norm_hadamard", "add_rms_norm_hadamard", "silu_mul_hadamard")
        for block in (16, 1024)
    ),
)
HEADS = Problem(
    "paged_attention",
    "cuda",
    1,
    20 * 128,
    30 * 128,
    x_dtype="bfloat16",
    y_dtype="bfloat16",
    heads=20,
    kv_heads=5,
    head_dim=128,
    cache_dtype="bfloat16",
)
HEAD = Problem("head_logits", "cuda", 1, 4096, 2560, x_dtype="bfloat16", w_dtype="bfloat16")
PROBLEMS += (
    HEADS,
    replace(HEADS, cache_dtype="float32", x_dtype="float32", y_dtype="float32"),
    replace(HEADS, out_features=6 * 80, in_features=10 * 80, heads=6, kv_heads=2, head_dim=80),
    HEAD,
    replace(HEAD, in_features=IN_FEATURES + 1),
    replace(HEAD, x_dtype="float32"),
    replace(HEAD, x_dtype="float32", w_dtype="float32"),
    replace(HEAD, w_dtype="int8"),
    replace(HEAD, op="add_rms_norm_head_logits", w_dtype="int8", bias="bfloat16"),
    replace(HEAD, op="add_rms_norm_head_logits", bias="bfloat16"),
    replace(HEAD, op="embedding", x_dtype="int64", y_dtype="bfloat16"),
    replace(HEAD, op="embedding", x_dtype="int32", y_dtype="float32", w_dtype="int8"),
    *(
        replace(
            A8, op="packed_embedding", activation="", x_dtype=ids, scale=scale, group_size=size, layout=layout, bias=""
        )
        for ids, scale, size, layout in (
            ("int64", "group", 128, "i2/planes"),
            ("int32", "tensor", 0, "i2/planes"),
            ("int64", "row", 0, "t5/planes"),
        )
    ),
    *(
        Problem(
            "delta_net",
            "cuda",
            1,
            heads * dv,
            2 * keys * dk + heads * dv,
            x_dtype=dtype,
            y_dtype=dtype,
            heads=heads,
            kv_heads=keys,
            head_dim=dk,
        )
        for heads, keys, dk, dv, dtype in ((32, 16, 128, 128, "bfloat16"), (6, 2, 80, 33, "float32"))
    ),  # fmt: skip
    Problem("greedy", "cuda", 1, 128_256, 128_256, bias="int32"),
    Problem("greedy", "cuda", 1, 4097, 4097),
)
OF_TRAINING = {"quantized_linear", "quantize_weight", "dequantize_weight", "bit_linear_input_grad"}


@dataclass(frozen=True)
class Case:
    """A kernel with its default config for a problem."""

    kernel: Kernel
    problem: Problem

    def bind(self):
        return self.kernel.bind(self.problem, self.kernel.configs(self.problem)[0])

    def launches(self) -> list[tuple[Launch, list]]:
        """Return the launches, each with an example of its operands for the compiler."""
        rows = self.problem.rows
        operands = operands_of(self.problem, (rows,))
        bound = fixed(self.bind(), operands)
        kinds = kinds_of(operands, scratch_of(bound, rows))
        return [(launch, example(launch, kinds)) for launch in bound.launches(rows)]


def cases(name):
    """Return all cases for a GPU: each problem for each number of rows; for one number also in training's layout."""
    _, gpu = GPUS[name]
    problems = [replace(problem, gpu=gpu, rows=rows) for problem in PROBLEMS for rows in ROWS]
    problems += [replace(p, layout=I2_CHUNKS.name) for p in problems if p.op in OF_TRAINING and p.rows == ROWS[-1]]
    return [
        Case(kernel, problem)
        for kernel in BACKEND.kernels()
        for problem in problems
        if kernel.op == problem.op and kernel.unsupported_reason(problem) is None
    ]


def representatives(name):
    """Return one case for each of the GPU's kernels; GPUs take turns with the cases.

    Kernels that launch the same functions take turns with the GPUs of a vendor, the H200 apart, for which all compile.
    """
    groups, families = {}, {}
    for case in cases(name):
        functions = tuple(launch.function.__name__ for launch, _ in case.launches())
        groups.setdefault((case.kernel.name, functions), []).append(case)
    for (_, functions), group in groups.items():
        families.setdefault(functions, []).append(group)
    turn = list(GPUS).index(name)
    taken = [group for family in families.values() for group in family[turn_of(name, len(family))]]
    return [group[turn * len(group) // len(GPUS)] for group in taken]


def turn_of(name, kernels):
    """Return which of so many kernels, which launch the same functions, a GPU compiles: at least one."""
    if name == "cuda-90":
        return slice(None)
    rivals = [other for other in TAKING_TURNS if GPUS[other][0].backend == GPUS[name][0].backend]
    number = min(len(rivals), kernels)
    return slice(rivals.index(name) % number, None, number)
