"""Providers of the matmul and the linear layer by name. A new one is an entry in PROVIDERS of its module."""

from benchmarks.harness.contender import Provider
from benchmarks.harness.options import Defaults
from benchmarks.providers import ggml, gpu, ours, torch_linear

PROVIDERS: dict[str, Provider] = {
    provider.name: provider
    for provider in (
        *ours.PROVIDERS,
        *torch_linear.PROVIDERS,
        *ggml.PROVIDERS,
        *gpu.PROVIDERS,
    )
}

GGML = tuple(provider.name for provider in ggml.PROVIDERS)
ON_GPU = ("product", "torch_bf16", "torch_int_mm", "torch_float8", "gemlite")
GPU_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 512, 2048)
MATMUL = {  # codes in
    "cpu": Defaults(("kernel", "kernel_t5", "torch_int_mm")),
    "cuda": Defaults((*ON_GPU, "layer_bf16", "product_t5"), "gpu", GPU_ROWS, max(GPU_ROWS), ("cold",), (1,)),
}
LAYER = {  # floats in and out
    "cpu": Defaults(
        (
            "bitnet_jit",
            "kernel",
            "bitnet_jit_t5",
            "torch_float32",
            "torch_bf16",
            "torch_int8_x86",
            "torch_int8_onednn",
            *GGML,
        )
    ),
    "cuda": Defaults(
        ("layer_bf16", "product", "torch_bf16", "gemlite"), "gpu", GPU_ROWS, max(GPU_ROWS), ("cold",), (1,)
    ),
}
