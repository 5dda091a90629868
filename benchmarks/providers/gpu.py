"""Providers on a GPU: our products alone and our whole layer in bfloat16, cuBLAS in float8, and gemlite."""

from functools import partial
from importlib.util import find_spec

import torch

from benchmarks.harness.contender import Contender, Provider
from benchmarks.harness.work import Work
from benchmarks.providers.launches import product
from benchmarks.providers.ours import build_layer, contender, num_bytes, packed_copies
from benchmarks.providers.torch_linear import weight_copies


def gpu_unsupported_reason(work: Work) -> str | None:
    return None if torch.device(work.device).type == "cuda" else f"runs on a GPU, not on {work.device}"


def inputs(work: Work) -> tuple[torch.Tensor, torch.Tensor]:
    """Return x (M, K) in bfloat16 and the weight's scale."""
    x = torch.from_numpy(work.x).to(work.device, torch.bfloat16)
    return x, torch.tensor(work.w_scale, device=work.device)


def build_product(name: str, format_name: str, work: Work, copies: int) -> Contender:
    """Build bit_linear without its quantizer, on codes that are there."""
    layout, weights = packed_copies(work, format_name, copies)
    run, y = product(*inputs(work), work.shape.out_features, layout, weights)
    return contender(name, run, lambda: y().float().cpu().numpy(), num_bytes(format_name, work), work)


def build_float8(name: str, work: Work, copies: int) -> Contender:
    """Build torch._scaled_mm: both operands in float8 (e4m3) with one scale each, bfloat16 out."""
    x, w_scale = inputs(work)
    x_scale = x.abs().max().float() / torch.finfo(torch.float8_e4m3fn).max
    x_8 = (x / x_scale).to(torch.float8_e4m3fn)
    weights = weight_copies(work.w_codes.to(torch.float8_e4m3fn), copies)
    last = x.new_empty(0)

    def run(number: int) -> None:
        nonlocal last
        weight = weights[number % copies].T
        last = torch._scaled_mm(x_8, weight, x_scale, w_scale, out_dtype=torch.bfloat16, use_fast_accum=True)

    return contender(name, run, lambda: last.float().cpu().numpy(), work.w_q.size, work)


def build_gemlite(name: str, work: Work, copies: int) -> Contender:
    """Build gemlite's A8W158 layer, whose call quantizes x too; it tunes itself at the first call of a shape."""
    from gemlite.helper import A8W158_INT_dynamic

    (x, w_scale), make = inputs(work), A8W158_INT_dynamic(device=work.device, dtype=torch.bfloat16)
    weight = work.w_codes.bfloat16()
    layers = [make.from_weights(weight.clone(), w_scale) for _ in range(copies)]
    last = x.new_empty(0)

    def run(number: int) -> None:
        nonlocal last
        last = layers[number % copies](x)

    return contender(name, run, lambda: last.float().cpu().numpy(), num_bytes("i2", work), work)


def gemlite_unsupported_reason(work: Work) -> str | None:
    if find_spec("gemlite") is None:
        return "the package gemlite is not installed (pip install gemlite)"
    if work.rows > 1:
        return "gemlite tunes itself for a quarter of a minute per shape and number of rows: one row is measured"
    return gpu_unsupported_reason(work)


def ours(name: str, format_name: str, build) -> Provider:
    """Return one of ours: right to the last bit or refused."""
    build = partial(build, name, format_name)
    return Provider(
        name, build, lambda work: work.y_bfloat16, 0, partial(num_bytes, format_name), gpu_unsupported_reason
    )


PROVIDERS = (
    ours("layer_bf16", "i2", partial(build_layer, dtype=torch.bfloat16)),
    ours("product", "i2", build_product),
    ours("product_t5", "t5", build_product),
    Provider(
        "torch_float8",
        partial(build_float8, "torch_float8"),
        lambda work: work.y_unquantized,
        0.05,
        lambda work: work.w_q.size,
        gpu_unsupported_reason,
    ),
    Provider(
        "gemlite",
        partial(build_gemlite, "gemlite"),
        lambda work: work.y,
        0.03,  # its scales and sums are less exact: 0.011 to 0.019 was seen where K is large
        partial(num_bytes, "i2"),
        gemlite_unsupported_reason,
    ),
)
