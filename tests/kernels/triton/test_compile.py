"""Kernels' default configs compile for every GPU that is promised: no GPU is needed for that."""

import multiprocessing
import re
from collections import Counter
from dataclasses import replace
from functools import partial
from itertools import groupby

import pytest
import torch

pytest.importorskip("triton", reason="the package triton is not installed")

import triton
from triton.compiler import ASTSource
from triton_calls import BACKEND
from triton_gpus import GPUS, HEADS, OF_TRAINING, PROBLEMS, TAKING_TURNS, Case, cases, representatives

from bitnet_jit.kernels.triton.attention import paged
from bitnet_jit.kernels.triton.attention.paged import Sizes
from bitnet_jit.kernels.triton.device.target import interpreted
from bitnet_jit.kernels.triton.layout import I2_CHUNKS
from bitnet_jit.system.cores import available_cores

pytestmark = pytest.mark.skipif(interpreted(), reason="the interpreter compiles nothing")
FUNCTIONS = (
    *(
        "fused",
        "norm_gemv",
        "gemv",
        "small",
        "gemm",
        "group_gemm",
        "group_small",
        "add",
        "planes",
        "arrange",
        "input_grad",
        "row",
        "rotate",
        "norm_gradients",
        "add_sums",
    ),
    *("write", "whole", "piece", "join", "inputs", "recurrence", "head", "quantize_hidden", "norm_hidden", "int8_head"),
    *("embedding", "packed_embedding", "part", "greedy"),
    *("absolute_sum", "quantize_weight", "dequantize_weight", "dequantize_activation"),
)
TYPES = {
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.int8: "i8",
    torch.uint8: "u8",
    torch.float64: "fp64",
    torch.int32: "i32",
    torch.int64: "i64",
}


def specialized(launch, operands):
    """Return the signature, constants and attributes of a launch, as Triton makes them at a call.

    They are equal to the last detail, so that the disk cache serves the calls of test_launch.py with these kernels.
    """
    values = [*operands, *launch.constants.values()]
    signature, constants, attributes = {}, {}, {}
    for place, (parameter, value) in enumerate(zip(launch.function.params, values, strict=True)):
        if parameter.is_constexpr or value is None:
            signature[parameter.name], constants[parameter.name], attributes[(place,)] = "constexpr", value, []
        elif isinstance(value, torch.dtype):
            signature[parameter.name] = f"*{TYPES[value]}"
            attributes[(place,)] = [["tt.divisibility", 16]]
        else:
            signature[parameter.name] = "fp32" if isinstance(value, float) else "i32"
            if isinstance(value, int) and not parameter.do_not_specialize:
                attributes[(place,)] = [] if value % 16 else [["tt.divisibility", 16]]
    return signature, constants, attributes


def compile_for(target, launch, operands):
    """Return the compiled kernel of a launch."""
    signature, constants, attributes = specialized(launch, operands)
    source = ASTSource(launch.function, signature, constexprs=constants, attrs=attributes)
    return triton.compile(source, target=target, options=launch.options)


def shared_memory(target, launch, operands):
    """Compile a launch and return its bytes of shared memory."""
    kernel = compile_for(target, launch, operands)
    assert kernel.asm["cubin" if target.backend == "cuda" else "hsaco"]
    return kernel.metadata.shared


def in_processes(work):
    """Return the results of functions without arguments, each called in one of several processes."""
    with multiprocessing.get_context("fork").Pool(available_cores(), initializer=WORK.extend, initargs=(work,)) as pool:
        return pool.map(run_work, range(len(work)), chunksize=1)


def vendors(names):
    """Return the names of GPUs apart by vendor."""
    return [list(group) for _, group in groupby(names, key=lambda name: GPUS[name][0].backend)]


WORK = []  # of this process: functions cannot be sent to another


def run_work(number):
    return WORK[number]()


def check_compiles(name, cases):
    """Compile every different launch of some cases for a GPU; each must fit into its shared memory."""
    target, gpu = GPUS[name]
    different = {}
    for launch, operands in (pair for case in cases for pair in case.launches()):
        key = (launch.function.__name__, *map(str, specialized(launch, operands)), *launch.options.items())
        different.setdefault(key, partial(shared_memory, target, launch, operands))
    assert {function for function, *_ in different} == {f"{function}_kernel" for function in FUNCTIONS}
    sizes = in_processes(list(different.values()))
    assert {key: size for key, size in zip(different, sizes, strict=True) if size > gpu.shared_memory} == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cuda-90", *TAKING_TURNS])  # all cases are compiled for all GPUs below
def test_a_default_config_of_every_kernel_compiles(name):
    check_compiles(name, representatives(name))


@pytest.mark.parametrize("names", [["cuda-90"], *vendors(TAKING_TURNS)], ids=", ".join)
def test_every_kernel_has_its_turn(names):
    kernels = {case.kernel.name for name in names for case in cases(name)}
    assert {case.kernel.name for name in names for case in representatives(name)} == kernels


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", GPUS)
def test_all_default_configs_compile(name):
    check_compiles(name, cases(name))


def accesses(problem):
    """Count the instructions by width that reach memory in the last launch of a problem's kernel, on an H200."""
    target, gpu = GPUS["cuda-90"]
    problem = replace(problem, gpu=gpu, rows=128, out_features=6912, in_features=2560)
    fitting = (k for k in BACKEND.kernels() if k.op == problem.op and k.unsupported_reason(problem) is None)
    launch, operands = Case(next(fitting), problem).launches()[-1]
    return Counter(re.findall(r"(?:ld|st)\.global[.\w]*", compile_for(target, launch, operands).asm["ptx"]))


@pytest.mark.parametrize("problem", [problem for problem in PROBLEMS if problem.op in OF_TRAINING], ids=str)
def test_chunks_are_read_and_written_as_widely_as_planes(problem):
    counts = accesses(replace(problem, layout=I2_CHUNKS.name))
    assert counts == accesses(problem)
    assert any(".v4." in instruction for instruction in counts)


def widths_of_k(target, launch):
    """Return how many neighbours in K a thread holds of the operands of products, from which the order of K follows."""
    kinds = {"rotary": torch.float32, "positions": torch.int32, "starts": torch.int32, "tables": torch.int32}
    kinds |= dict.fromkeys(paged.RESULTS, torch.float32)
    operands = [kinds.get(name, torch.bfloat16) for name in launch.operands]
    return set(re.findall(r"kWidth = (\d+)", compile_for(target, launch, operands).asm["ttgir"]))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cuda-80", "cuda-90"])
def test_all_tiles_of_attention_take_k_in_the_same_order(name):
    target, gpu = GPUS[name]
    problem = replace(HEADS, gpu=gpu)
    config = paged.configs(problem)[0]
    launches = [paged.split(problem, Sizes(n, n, 64), config)[0] for n in (1, 16)]  # a piece, and pieces in turns
    launches += [paged.whole(problem, sizes, config) for sizes in (Sizes(64, 64, 64), Sizes(2048, 1, 32))]
    assert in_processes([partial(widths_of_k, target, launch) for launch in launches]) == [{"2"}] * len(launches)
