"""From tensors to the launches that a driver is asked for, with a driver that writes them down: no GPU is needed.

Kernels are compiled by Triton as at a call on an H200; addresses, numbers and constants must arrive in their places.
"""

from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="the package triton is not installed")

from torch._C._dynamo import guards
from triton.runtime.driver import driver
from triton_calls import BACKEND, operands_of
from triton_gpus import GPUS, PROBLEMS, cases, representatives

from bitnet_jit.kernels.triton import tensors as triton_tensors
from bitnet_jit.kernels.triton.device.target import interpreted

pytestmark = pytest.mark.skipif(interpreted(), reason="the interpreter launches nothing")
NAME = "cuda-90"
TARGET, GPU = GPUS[NAME]
STREAM = 4242
LAUNCHES = []  # of one list: a kernel that an earlier test has compiled keeps the launcher of that test's driver


class WritingDriver:
    """The part of a driver that Triton asks for."""

    def __init__(self):
        self.utils = SimpleNamespace(
            get_device_properties=lambda device: {"max_shared_mem": GPU.shared_memory},
            load_binary=lambda name, kernel, shared, device: (name, name, 32, 0, 1024),
        )

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0

    def get_current_target(self):
        return TARGET

    def launcher_cls(self, source, metadata):
        def launch(x, y, z, stream, function, packed, launch_metadata, enter, leave, *arguments):
            LAUNCHES.append(
                (function, (x, y, z), stream, metadata, dict(zip(source.fn.arg_names, arguments, strict=True)))
            )

        return launch


@pytest.fixture
def launches(monkeypatch):
    """Record launches: function, grid, stream, metadata, arguments by name."""
    writing = WritingDriver()
    monkeypatch.setattr(driver, "_active" if hasattr(driver, "_active") else "active", writing)  # before Triton 3.5
    monkeypatch.setattr(torch._C, "_cuda_getDevice", lambda: 0, raising=False)
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda index: STREAM, raising=False)
    monkeypatch.setattr(triton_tensors, "empty_strided", guards._empty_strided_cpu)
    LAUNCHES.clear()
    return LAUNCHES


def inputs_of(problem, rows):
    """Return zeros as an op takes them, by name."""
    inputs = operands_of(problem, (rows,)).inputs
    tensors = {a.name: torch.zeros(a.shape, dtype=getattr(torch, a.dtype)) if a.dtype else None for a in inputs}
    return tensors | {"eps": 1e-5}


def check_arguments(case, launches):
    """Call a kernel as an op does, and compare its launches with the arguments that the driver was handed."""
    problem, rows, bound = case.problem, case.problem.rows, case.bind()
    operands = operands_of(problem, (rows,))
    inputs = inputs_of(problem, rows)
    call = triton_tensors.bind_call(bound, operands, torch.device("cpu"))
    launches.clear()
    result = call(*(inputs[name] for name in operands.arguments))
    names_of_outputs = triton_tensors.outputs_of(operands)
    outputs = dict(zip(names_of_outputs, result if isinstance(result, tuple) else [result], strict=True))
    known = {name: a.data_ptr() for name, a in (inputs | outputs).items() if isinstance(a, torch.Tensor)}
    for launch, launched in zip(triton_tensors.fixed(bound, operands).launches(rows), launches, strict=True):
        check(launch, launched, known | {"eps": 1e-5, "row_stride": problem.in_features, None: None}, problem)


@pytest.mark.slow
def test_arguments_arrive_in_their_places(launches):
    for case in representatives(NAME):
        check_arguments(case, launches)


@pytest.mark.exhaustive
def test_arguments_of_all_default_configs_arrive_in_their_places(launches):
    for case in cases(NAME):
        check_arguments(case, launches)


def check(launch, launched, known, problem):
    """Compare a launch with the driver's record; only the tensors between launches are not known here."""
    function, grid, stream, metadata, arguments = launched
    assert (function, grid, stream) == (launch.function.__name__, (launch.programs, 1, 1), STREAM)
    assert metadata.num_warps == launch.num_warps
    assert metadata.launch_pdl == launch.pdl
    assert list(arguments) == launch.function.arg_names
    between = {"x_padded", "partials", "sums", "maxima", "totals", "x_hi", "x_lo", "x_normed"}
    between |= {"part_keys", "part_places", "q", "k", "v", "products", "gates"}
    between |= {"x_q", "x_scale"} if problem.op.endswith(("bit_linear", "head_logits")) else set()
    values = list(arguments.values())
    for operand, value in zip(launch.operands, values, strict=False):
        name = operand.partition(":")[0] if operand else None
        if name in between:
            assert value % 16 == 0
        else:
            assert value == known[name], (function, name)
    assert values[len(launch.operands) :] == list(launch.constants.values())


def test_operands_that_lie_badly_are_copied_first(launches):
    kernel = next(kernel for kernel in BACKEND.kernels() if kernel.name == "triton.gemv_bit_linear")
    problem = replace(PROBLEMS[0], gpu=GPU, rows=1, bias="", scale="tensor")
    bound, inputs = kernel.bind(problem, kernel.configs(problem)[0]), inputs_of(problem, 1)
    call = triton_tensors.bind_call(bound, operands_of(problem, (1,)), torch.device("cpu"))
    for x in (
        torch.zeros(problem.in_features + 1).bfloat16()[1:][None],
        torch.zeros(1, 2 * problem.in_features)[:, ::2],
    ):
        launches.clear()
        call(x.bfloat16() if x.dtype == torch.float32 else x, inputs["w_packed"], inputs["w_scale"], None)
        address = launches[0][-1]["x_ptr"]
        assert address % 16 == 0
        assert address != x.data_ptr()


def test_another_device_than_the_current_one_is_made_current_meanwhile(launches, monkeypatch):
    current, seen = [1], []

    @contextmanager
    def device(index):
        before, current[0] = current[0], index
        yield
        current[0] = before

    def empty_strided(*arguments):
        seen.append(current[0])
        return guards._empty_strided_cpu(*arguments)

    monkeypatch.setattr(torch._C, "_cuda_getDevice", lambda: current[0], raising=False)
    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(triton_tensors, "empty_strided", empty_strided)
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda index: seen.append(current[0]), raising=False)
    kernel = next(kernel for kernel in BACKEND.kernels() if kernel.name == "triton.quantize_weight")
    problem = next(replace(problem, gpu=GPU) for problem in PROBLEMS if problem.op == kernel.op)
    weight = inputs_of(problem, 1)["weight"]
    bound = kernel.bind(problem, kernel.configs(problem)[0])
    call = triton_tensors.bind_call(bound, operands_of(problem, ()), torch.device("cpu"))
    call(weight)
    assert seen == [0] * 4  # codes, scale and scratch memory, and the stream of the launches
    assert current == [1]


def test_parts_of_one_tensor_are_read_where_they_are(launches):
    kernel = next(kernel for kernel in BACKEND.kernels() if kernel.op == "relu2_mul_norm_quantize")
    problem = next(p for p in PROBLEMS if p.op == kernel.op)
    problem = replace(problem, gpu=GPU, rows=4, in_features=64, out_features=64)
    bound = kernel.bind(problem, kernel.configs(problem)[0])
    call = triton_tensors.bind_call(bound, operands_of(problem, (2, 2)), torch.device("cpu"))
    gate, up = torch.zeros(2, 2, 128, dtype=torch.bfloat16).chunk(2, -1)
    call(gate, up, torch.ones(64), 1e-6)
    arguments = launches[0][-1]
    assert (arguments["x_ptr"], arguments["other_ptr"], arguments["x_stride"]) == (gate.data_ptr(), up.data_ptr(), 128)
    assert arguments["eps"] == np.float64(1e-6)


@pytest.mark.parametrize(
    ("name", "outputs", "late"), [("small", 640, True), ("small", 8192, False), ("gemm", 640, False)]
)
def test_quantizers_hold_back_only_products_that_gain_by_it(name, outputs, late):
    problem = replace(PROBLEMS[0], op="bit_linear", rows=8, out_features=outputs, x_dtype="bfloat16", gpu=GPU)
    kernel = next(kernel for kernel in BACKEND.kernels() if kernel.name == f"triton.{name}_bit_linear")
    quantize, *_ = kernel.bind(problem, kernel.configs(problem)[0]).launches(8)
    assert quantize.constants["LATE"] is late
