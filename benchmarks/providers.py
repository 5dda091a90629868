"""Every contender of the matmul and the linear layer by name. A new one is an entry in its module's PROVIDERS."""

import providers_ggml
import providers_gpu
import providers_ours
import providers_torch
from options import Usual
from work import Provider

PROVIDERS: dict[str, Provider] = {
    provider.name: provider
    for provider in (
        *providers_ours.PROVIDERS,
        *providers_torch.PROVIDERS,
        *providers_ggml.PROVIDERS,
        *providers_gpu.PROVIDERS,
    )
}

GGML = tuple(provider.name for provider in providers_ggml.PROVIDERS)
ON_GPU = ("product", "torch_bf16", "torch_int_mm", "torch_float8", "gemlite")
GPU_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 512, 2048)
MATMUL = {  # codes in
    "cpu": Usual(("kernel", "kernel_t5", "torch_int_mm")),
    "cuda": Usual((*ON_GPU, "layer_bf16", "product_t5"), "gpu", GPU_ROWS, max(GPU_ROWS), ("cold",), (1,)),
}
LAYER = {  # floats in and out
    "cpu": Usual(
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
    "cuda": Usual(("layer_bf16", "product", "torch_bf16", "gemlite"), "gpu", GPU_ROWS, max(GPU_ROWS), ("cold",), (1,)),
}
