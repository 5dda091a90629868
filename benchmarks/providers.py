"""Every contender of the matmul and the linear layer by name. A new one is an entry in its module's PROVIDERS."""

import providers_ggml
import providers_ours
import providers_torch
from work import Provider

PROVIDERS: dict[str, Provider] = {
    provider.name: provider
    for provider in (*providers_ours.PROVIDERS, *providers_torch.PROVIDERS, *providers_ggml.PROVIDERS)
}

MATMUL = ("kernel", "kernel_t5", "torch_int_mm")  # codes in, sums out
LAYER = ("bitnet_jit", "bitnet_jit_t5", "torch_float32", "torch_bf16", "torch_int8_x86", "torch_int8_onednn") + tuple(
    provider.name for provider in providers_ggml.PROVIDERS
)  # float32 in, float32 out
