"""Every kernel's default config compiles for every GPU that is promised: no GPU is needed for that.

The kernels are bound and called as ever, on CPU tensors, but each launch is recorded instead of made.
"""

import pytest
import torch

pytest.importorskip("triton", reason="the package triton is not installed")

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from bitnet_jit.kernels.triton import BACKEND, gemm, gemv
from bitnet_jit.kernels.triton.target import interpreted
from bitnet_jit.problem import Problem

CUDA = [GPUTarget("cuda", capability, 32) for capability in (80, 89, 90, 100, 120)]
AMD = [
    GPUTarget("hip", name, 64 if name.startswith("gfx9") else 32) for name in ("gfx90a", "gfx942", "gfx1100", "gfx1201")
]
TYPES = {
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.int8: "i8",
    torch.uint8: "u8",
    torch.int32: "i32",
}
ROWS = (1, 4, 16, 128, 2048)  # of the buckets, between which default configs differ
OUT_FEATURES, IN_FEATURES = 192, 700

pytestmark = pytest.mark.skipif(interpreted(), reason="the interpreter compiles nothing")


def launches(kernel, rows, monkeypatch):
    """(function, arguments by name, options) of every launch of one call."""
    found = []

    def record(function, *args, grid, warmup, **kwargs):
        arguments = dict(zip(function.arg_names, args, strict=False)) | kwargs
        options = {name: arguments.pop(name) for name in list(arguments) if name not in function.arg_names}
        found.append((function, arguments, options))

    monkeypatch.setattr(JITFunction, "run", record)
    x_dtype, y_dtype = torch.int8, torch.bfloat16
    if kernel.op == "bit_linear":
        x_dtype = torch.bfloat16
    if kernel.op == "ternary_matmul":
        y_dtype = torch.int32
    problem = Problem(
        kernel.op, "cuda", rows, OUT_FEATURES, IN_FEATURES, "i2/planes", "a8", str(x_dtype)[6:], str(y_dtype)[6:], "row"
    )
    if kernel.why_not(problem) is not None:
        return []
    layout = BACKEND.layouts[0]
    x = torch.zeros(rows, IN_FEATURES, dtype=x_dtype)
    w_packed = torch.zeros(layout.shape(OUT_FEATURES, IN_FEATURES), dtype=torch.uint8)
    scales = [torch.zeros(rows)] if kernel.op == "quantized_linear" else []
    others = [] if kernel.op == "ternary_matmul" else [torch.zeros(OUT_FEATURES), torch.zeros(OUT_FEATURES)]
    kernel.bind(problem, kernel.configs(problem)[0])(x, *scales, w_packed, *others)
    return found


def compile_for(target, function, arguments, options):
    constants = {parameter.name for parameter in function.params if parameter.is_constexpr}
    signature, attributes = {}, {}
    for place, (name, value) in enumerate(arguments.items()):
        if name in constants:
            signature[name] = "constexpr"
        else:
            signature[name] = f"*{TYPES[value.dtype]}" if isinstance(value, torch.Tensor) else "i32"
            if isinstance(value, torch.Tensor) or value % 16 == 0:
                attributes[(place,)] = [["tt.divisibility", 16]]
    values = {name: arguments[name] for name in constants}
    source = ASTSource(function, signature, constexprs=values, attrs=attributes)
    return triton.compile(source, target=target, options=options)


@pytest.mark.slow
@pytest.mark.parametrize("target", CUDA + AMD, ids=lambda target: f"{target.backend}-{target.arch}")
def test_default_configs_compile(target, monkeypatch):
    for module in (gemm, gemv):
        monkeypatch.setattr(module, "uses_assembly", lambda: target.backend == "cuda")
    compiled = {}
    for kernel in BACKEND.kernels:
        for rows in ROWS:
            for function, arguments, options in launches(kernel, rows, monkeypatch):
                constants = {p.name: arguments[p.name] for p in function.params if p.is_constexpr}
                key = (function.__name__, *constants.items(), *options.items())
                if key not in compiled:
                    compiled[key] = compile_for(target, function, arguments, options)
    binary = "cubin" if target.backend == "cuda" else "hsaco"
    assert {name for name, *_ in compiled} == {"quantize_kernel", "gemv_kernel", "gemm_kernel"}
    assert all(kernel.asm[binary] for kernel in compiled.values())
