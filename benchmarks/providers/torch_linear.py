"""Providers of torch itself for a linear layer: float32, bfloat16, and dynamic int8 on each quantized engine."""

import warnings
from functools import partial

import torch
from torch.nn.functional import linear

from benchmarks.harness.contender import Contender, Provider
from benchmarks.harness.work import Work

ENGINES = ("x86", "onednn")  # fbgemm's kernels are x86's, qnnpack's are for phones


def weight_copies(weight: torch.Tensor, copies: int) -> list[torch.Tensor]:
    return [weight, *(weight.clone() for _ in range(copies - 1))]


def build_linear(name: str, dtype: torch.dtype, work: Work, copies: int) -> Contender:
    """Build torch.nn.functional.linear on the unpacked weight."""
    x = torch.from_numpy(work.x).to(work.device, dtype)
    weights = weight_copies(work.w.to(dtype), copies)
    last = x.new_empty(0)

    def run(number: int) -> None:
        nonlocal last
        last = linear(x, weights[number % copies])

    num_bytes = weights[0].nbytes
    return Contender(name, run, lambda: last.float().cpu().numpy(), num_bytes, work.num_ops, torch.set_num_threads)


def build_dynamic_int8(name: str, engine: str, work: Work, copies: int) -> Contender:
    """Build a layer of torch's quantize_dynamic: float32 in and out, int8 weights and activations in between."""
    torch.backends.quantized.engine = engine
    layers = [dynamic_int8(work) for _ in range(copies)]
    x = torch.from_numpy(work.x)
    last = x.new_empty(0)

    def run(number: int) -> None:
        nonlocal last
        torch.backends.quantized.engine = engine
        last = layers[number % copies](x)

    return Contender(name, run, lambda: last.numpy(), work.w_q.size, work.num_ops, torch.set_num_threads)


def dynamic_int8(work: Work) -> torch.nn.Module:
    """Quantize a layer for the engine in use."""
    layer = torch.nn.Linear(work.shape.in_features, work.shape.out_features, bias=False)
    layer.weight = torch.nn.Parameter(work.w, requires_grad=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says on many lines that this will move to another package
        from torch.ao.quantization import quantize_dynamic

        quantized = quantize_dynamic(torch.nn.Sequential(layer), {torch.nn.Linear}, dtype=torch.qint8)
    return quantized[0]


def engine_unsupported_reason(engine: str, work: Work) -> str | None:
    if engine not in torch.backends.quantized.supported_engines:
        return f"torch has no quantized engine {engine} here"
    return None if work.device == "cpu" else f"torch's dynamic int8 runs on the CPU only, not on {work.device}"


def build_int_mm(name: str, work: Work, copies: int) -> Contender:
    """Build torch._int_mm: int8 in, int32 out, on the weight as int8."""
    x_q = torch.from_numpy(work.codes[0]).to(work.device)
    weights = [weight.T for weight in weight_copies(work.w_codes, copies)]
    last = x_q.new_empty(0)

    def run(number: int) -> None:
        nonlocal last
        last = torch._int_mm(x_q, weights[number % copies])

    return Contender(name, run, lambda: last.cpu().numpy(), work.w_q.size, work.num_ops, torch.set_num_threads)


def int_mm_unsupported_reason(work: Work) -> str | None:
    if work.device != "cpu" and work.rows <= 16:
        return "torch._int_mm takes more than 16 rows on a GPU"
    return None


def float_provider(name: str, dtype: torch.dtype, tolerance: float) -> Provider:
    """Return the linear layer of a float type; bfloat16 rounds the inputs, the weight's scale and the result."""
    build = partial(build_linear, name, dtype)
    size = dtype.itemsize
    return Provider(
        name,
        build,
        lambda work: work.y_unquantized,
        tolerance,
        lambda work: size * work.w_q.size,
    )


def int8_provider(engine: str) -> Provider:
    """Return the int8 layer of an engine; all activations share one scale in 7 or 8 bits, which costs about 0.01."""
    name = f"torch_int8_{engine}"
    return Provider(
        name,
        partial(build_dynamic_int8, name, engine),
        lambda work: work.y_unquantized,
        0.05,
        lambda work: work.w_q.size,
        partial(engine_unsupported_reason, engine),
    )


PROVIDERS = (
    float_provider("torch_float32", torch.float32, 1e-5),
    float_provider("torch_bf16", torch.bfloat16, 1e-2),
    *map(int8_provider, ENGINES),
    Provider(
        "torch_int_mm",
        partial(build_int_mm, "torch_int_mm"),
        lambda work: work.acc,
        0,
        lambda work: work.w_q.size,
        int_mm_unsupported_reason,
    ),
)
