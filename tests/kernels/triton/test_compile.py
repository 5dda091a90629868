"""Every kernel's default config compiles for every GPU that is promised: no GPU is needed for that."""

import multiprocessing
import re
from collections import Counter
from dataclasses import replace
from functools import partial

import pytest
import torch

pytest.importorskip("triton", reason="the package triton is not installed")

import triton
from bitnet_jit.ops.triton_tensors import kinds_of, outputs_of, scratch_of
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton_calls import BACKEND

from bitnet_jit.kernels.triton.device.launch import example
from bitnet_jit.kernels.triton.device.target import interpreted
from bitnet_jit.kernels.triton.layout import I2_CHUNKS
from bitnet_jit.problem import Gpu, Problem
from bitnet_jit.system.cores import available_cores

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
TYPES = {
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.int8: "i8",
    torch.uint8: "u8",
    torch.float64: "fp64",
    torch.int32: "i32",
}
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
    replace(A8, op="quantized_linear"),
    replace(A8, op="quantized_linear", in_features=4096),
    replace(A8, op="quantized_linear", in_features=IN_FEATURES + 1),
    replace(A8, op="ternary_matmul", y_dtype="int32", scale="", bias=""),
    replace(A8, op="bit_linear", x_dtype="bfloat16", layout="t5/planes"),
    replace(A8, op="bit_linear", x_dtype="bfloat16", layout="t5/planes", activation="a16"),
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
            "relu2_mul_norm_quantize",
            "silu_mul_norm_quantize",
        )
    ),
)
OF_TRAINING = {"quantized_linear", "quantize_weight", "dequantize_weight", "bit_linear_input_grad"}


def problems(gpu):
    """Each problem for each number of rows, and those that training brings in its own layout for one number."""
    found = [replace(problem, rows=rows) for problem in PROBLEMS for rows in ROWS]
    found += [replace(one, layout=I2_CHUNKS.name) for one in found if one.op in OF_TRAINING and one.rows == ROWS[-1]]
    return [replace(problem, gpu=gpu) for problem in found]


def launches(gpu):
    """(launch, what its operands are) of every kernel's default config for some problem."""
    for problem in problems(gpu):
        for kernel in BACKEND.kernels():
            if kernel.op == problem.op and kernel.unsupported_reason(problem) is None:
                bound = kernel.bind(problem, kernel.configs(problem)[0])
                shape = torch.Size((problem.rows, problem.in_features))
                kinds = kinds_of(problem, outputs_of(problem, shape) | scratch_of(bound, problem.rows))
                yield from ((launch, example(launch, kinds)) for launch in bound.launches(problem.rows))


def specialized(launch, operands):
    """Signature, constants and attributes of a launch, as Triton makes them at a call."""
    values = [*operands, *launch.constants.values()]
    signature, constants, attributes = {}, {}, {}
    for place, (parameter, value) in enumerate(zip(launch.function.params, values, strict=True)):
        if parameter.is_constexpr or value is None:
            signature[parameter.name], constants[parameter.name] = "constexpr", value
        elif isinstance(value, torch.dtype):
            signature[parameter.name] = f"*{TYPES[value]}"
            attributes[(place,)] = [["tt.divisibility", 16]]
        else:
            signature[parameter.name] = "fp32" if isinstance(value, float) else "i32"
            if isinstance(value, int) and value % 16 == 0 and not parameter.do_not_specialize:
                attributes[(place,)] = [["tt.divisibility", 16]]
    return signature, constants, attributes


def compile_for(target, launch, operands):
    """The compiled kernel of a launch."""
    signature, constants, attributes = specialized(launch, operands)
    source = ASTSource(launch.function, signature, constexprs=constants, attrs=attributes)
    return triton.compile(source, target=target, options=launch.options)


def shared_memory(target, launch, operands):
    """Bytes of shared memory of the compiled kernel."""
    kernel = compile_for(target, launch, operands)
    assert kernel.asm["cubin" if target.backend == "cuda" else "hsaco"]
    return kernel.metadata.shared


def in_processes(work):
    """The results of functions without arguments, each in one of several processes."""
    with multiprocessing.get_context("fork").Pool(available_cores(), initializer=WORK.extend, initargs=(work,)) as pool:
        return pool.map(run_work, range(len(work)), chunksize=1)


WORK = []  # of this process: functions cannot be sent to another


def run_work(number):
    return WORK[number]()


@pytest.mark.slow
@pytest.mark.skipif(interpreted(), reason="the interpreter compiles nothing")
@pytest.mark.parametrize("name", GPUS)
def test_default_configs_compile(name):
    target, gpu = GPUS[name]
    different = {}
    for launch, operands in launches(gpu):
        key = (launch.function.__name__, *map(str, specialized(launch, operands)), *launch.options.items())
        different.setdefault(key, partial(shared_memory, target, launch, operands))
    ways = {"fused", "gemv", "small", "gemm", "add", "planes", "arrange", "input_grad", "row"}
    ways |= {
        "norm_gradients",
        "add_sums",
        "absolute_sum",
        "quantize_weight",
        "dequantize_weight",
        "dequantize_activation",
    }
    assert {function for function, *_ in different} == {f"{name}_kernel" for name in ways}
    found = in_processes(list(different.values()))
    assert {key: most for key, most in zip(different, found, strict=True) if most > gpu.shared_memory} == {}


def accesses(problem):
    """How many instructions of each width reach memory in the last launch of a problem's kernel, on an H200."""
    target, gpu = GPUS["cuda-90"]
    problem = replace(problem, gpu=gpu, rows=128, out_features=6912, in_features=2560)
    kernel = next(
        found for found in BACKEND.kernels() if found.op == problem.op and found.unsupported_reason(problem) is None
    )
    bound = kernel.bind(problem, kernel.configs(problem)[0])
    kinds = kinds_of(problem, outputs_of(problem, torch.Size((128, 2560))) | scratch_of(bound, 128))
    launch = bound.launches(128)[-1]
    ptx = compile_for(target, launch, example(launch, kinds)).asm["ptx"]
    return Counter(re.findall(r"(?:ld|st)\.global[.\w]*", ptx))


@pytest.mark.skipif(interpreted(), reason="the interpreter compiles nothing")
@pytest.mark.parametrize("problem", [problem for problem in PROBLEMS if problem.op in OF_TRAINING], ids=str)
def test_chunks_are_read_and_written_as_widely_as_planes(problem):
    found = accesses(replace(problem, layout=I2_CHUNKS.name))
    assert found == accesses(problem)
    assert any(".v4." in instruction for instruction in found)
