"""bitnet_jit: JIT-compiled kernels, layers and inference for neural networks with ternary weights.

Importing this package imports neither torch nor a kernel language and asks no device: names load when first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from bitnet_jit.runtime.hooks import HOOKS as _HOOKS
from bitnet_jit.system import forks as forks  # registers what a forked child must do, before anything can fork

__version__ = "0.1.0"

if TYPE_CHECKING:
    from bitnet_jit.errors import BitNetError as BitNetError
    from bitnet_jit.errors import CheckpointError as CheckpointError
    from bitnet_jit.errors import CheckpointWarning as CheckpointWarning
    from bitnet_jit.errors import InvalidInput as InvalidInput
    from bitnet_jit.errors import UnsupportedProblem as UnsupportedProblem

_HOMES = {
    "BitLinear": "bitnet_jit.nn",
    "BitNetError": "bitnet_jit.errors",
    "CheckpointError": "bitnet_jit.errors",
    "CheckpointWarning": "bitnet_jit.errors",
    "Decoder": "bitnet_jit.generation.decoder",
    "InvalidInput": "bitnet_jit.errors",
    "LoraLinear": "bitnet_jit.nn",
    "PackedBitLinear": "bitnet_jit.nn",
    "RMSNorm": "bitnet_jit.nn",
    "UnsupportedProblem": "bitnet_jit.errors",
    "add_lora": "bitnet_jit.nn",
    "get_num_threads": "bitnet_jit.devices.threads",
    "set_num_threads": "bitnet_jit.devices.threads",
    "autotune": "bitnet_jit.tuning.autotune",
    "convert": "bitnet_jit.nn",
    "explain": "bitnet_jit.tuning.explain",
    "load": "bitnet_jit.checkpoints.loading",
    "lora_state_dict": "bitnet_jit.nn",
    "merge_lora": "bitnet_jit.nn",
    "pack": "bitnet_jit.nn",
    "patch": "bitnet_jit.integrations.transformers",
    "save": "bitnet_jit.checkpoints.saving",
    "set_quantization_strength": "bitnet_jit.nn",
}

__all__ = ["__version__", *_HOMES]


def _tune_on_miss(problem: Any, device: Any) -> Any:
    """Tune a problem when it is first asked (BITNET_JIT_AUTOTUNE=1)."""
    from bitnet_jit.tuning.tune import tune

    return tune(problem, device=device)


_HOOKS.on_miss = _tune_on_miss


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'bitnet_jit' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
