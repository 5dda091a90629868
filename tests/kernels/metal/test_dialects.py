"""The texts that compilers get, CUDA's by NVRTC, and what is refused before they get it."""

import pytest
from metal_calls import KERNELS
from metal_host import nvrtc

from bitnet_jit.errors import InvalidInput
from bitnet_jit.kernels.metal.launch import UNUSED_OUTPUT, Launch, Varying
from bitnet_jit.kernels.metal.linear.parts import PAD
from bitnet_jit.ops.op import OPS
from bitnet_jit.tuning.conformance import problems_of

needs_nvrtc = pytest.mark.skipif(
    nvrtc.find() is None, reason="the packages nvidia-cuda-nvrtc and triton are not installed"
)


def programs():
    """Yield (launch, dtypes by name of buffer) of every kernel: its first two problems."""
    for kernel in KERNELS.values():
        problems = [p for p in problems_of(OPS[kernel.op].spec, "mps") if kernel.unsupported_reason(p) is None]
        for problem in problems[:: max(1, len(problems) - 1)]:
            operands = OPS[problem.op].spec.operands_of(problem, (problem.rows,))
            bound = kernel.bind(problem, kernel.configs(problem)[0])
            dtypes = {operand.name: operand.dtype for operand in (*operands.inputs, *operands.outputs)}
            dtypes |= dict.fromkeys(operands.numbers, "float32") | {None: UNUSED_OUTPUT[1]}
            if isinstance(bound, Varying):
                bound = bound.of({operand.name: operand.shape for operand in operands.inputs})
            dtypes |= {name: dtype for name, (_, dtype) in bound.scratch(problem.rows).items()}
            for launch in bound.launches(problem.rows):
                absent = next(name for name in launch.inputs if name is not None)
                inputs = [dtypes[absent if name is None else name] for name in launch.inputs]
                names = (*launch.source.inputs, *launch.source.outputs)
                yield launch, dict(zip(names, (*inputs, *(dtypes[name] for name in launch.outputs)), strict=True))


def unlike():
    """Return the programs that differ."""
    return list(
        {launch.source.program(launch.constants, dtypes): (launch, dtypes) for launch, dtypes in programs()}.values()
    )


@needs_nvrtc
def test_every_kernel_compiles_as_cuda():
    for launch, dtypes in unlike():
        assert nvrtc.compile(nvrtc.program(launch.source, launch.constants, dtypes))


def test_programs_are_ascii_and_have_names_of_their_own():
    kinds = unlike()
    names = {launch.source.entry(launch.constants, dialect) for launch, _ in kinds for dialect in ("metal", "cuda")}
    bodies = {launch.source.body(launch.constants, "metal") for launch, _ in kinds}
    assert len(names) == 2 * len(bodies)
    assert all(launch.source.program(launch.constants, dtypes).isascii() for launch, dtypes in kinds)


@pytest.mark.parametrize(
    ("constants", "words"),
    [
        ({"SIMDGROUPS": 8}, "constants of pad: expected"),
        ({"SIMDGROUPS": 8, "CODE": "float64"}, "CODE has to be a whole number of 32 bits or a dtype, got 'float64'"),
        ({"SIMDGROUPS": 2**31, "CODE": "int8"}, "SIMDGROUPS has to be a whole number of 32 bits"),
        ({"SIMDGROUPS": 1.5, "CODE": "int8"}, "got 1.5"),
    ],
)
def test_constants_out_of_range_are_refused(constants, words):
    with pytest.raises(InvalidInput, match=words):
        PAD.body(constants, "metal")


@pytest.mark.parametrize(
    ("sizes", "threads", "words"),
    [
        ((1, 2), 33, "threads: expected a multiple of 32 up to 1024, got 33"),
        ((1, 2), 2048, "got 2048"),
        ((-1,), 32, "sizes: expected up to 7 numbers of 31 bits"),
        ((1,) * 8, 32, "sizes: expected up to 7 numbers"),
        ((2**31,), 32, "sizes"),
    ],
)
def test_launches_out_of_range_are_refused(sizes, threads, words):
    with pytest.raises(InvalidInput, match=words):
        Launch(PAD, ("x",), ("padded",), {}, sizes, (1, 1, 1), threads)
