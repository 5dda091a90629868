"""bitnet_jit: JIT-compiled kernels, layers and inference for neural networks with ternary weights.

Importing this package imports neither torch nor a kernel language and asks no device: names load when first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from bitnet_jit import moved as moved
from bitnet_jit.runtime.hooks import HOOKS as _HOOKS
from bitnet_jit.system import forks as forks  # registers its hook before anything can fork

__version__ = "0.1.0"

if TYPE_CHECKING:  # one line per entry of _HOMES, which a test compares with it
    from bitnet_jit.checkpoints.converting import convert_checkpoint as convert_checkpoint
    from bitnet_jit.checkpoints.embedded import embedded_model as embedded_model
    from bitnet_jit.checkpoints.inspection import inspect_checkpoint as inspect_checkpoint
    from bitnet_jit.checkpoints.loading import load as load
    from bitnet_jit.checkpoints.saving import save as save
    from bitnet_jit.devices.threads import get_num_threads as get_num_threads
    from bitnet_jit.devices.threads import set_num_threads as set_num_threads
    from bitnet_jit.engine.engine import InferenceEngine as InferenceEngine
    from bitnet_jit.engine.options.config import EngineConfig as EngineConfig
    from bitnet_jit.errors import BitNetError as BitNetError
    from bitnet_jit.errors import CheckpointError as CheckpointError
    from bitnet_jit.errors import CheckpointWarning as CheckpointWarning
    from bitnet_jit.errors import GenerationError as GenerationError
    from bitnet_jit.errors import InvalidInput as InvalidInput
    from bitnet_jit.errors import UnsupportedProblem as UnsupportedProblem
    from bitnet_jit.generation.decoder import Decoder as Decoder
    from bitnet_jit.generation.sampling import Sampling as Sampling
    from bitnet_jit.generation.speculation import Speculation as Speculation
    from bitnet_jit.generation.text import stream_text as stream_text
    from bitnet_jit.integrations.transformers import patch as patch
    from bitnet_jit.nn.bit_linear import BitLinear as BitLinear
    from bitnet_jit.nn.convert import convert as convert
    from bitnet_jit.nn.convert import pack as pack
    from bitnet_jit.nn.lora import add_lora as add_lora
    from bitnet_jit.nn.lora import lora_state_dict as lora_state_dict
    from bitnet_jit.nn.lora_linear import LoraLinear as LoraLinear
    from bitnet_jit.nn.lora_merge import merge_lora as merge_lora
    from bitnet_jit.nn.packed_bit_linear import PackedBitLinear as PackedBitLinear
    from bitnet_jit.nn.rms_norm import RMSNorm as RMSNorm
    from bitnet_jit.nn.warmup import set_quantization_strength as set_quantization_strength
    from bitnet_jit.tuning.autotune import autotune as autotune
    from bitnet_jit.tuning.explain import explain as explain

_HOMES = {
    "BitLinear": "bitnet_jit.nn.bit_linear",
    "BitNetError": "bitnet_jit.errors",
    "CheckpointError": "bitnet_jit.errors",
    "CheckpointWarning": "bitnet_jit.errors",
    "Decoder": "bitnet_jit.generation.decoder",
    "EngineConfig": "bitnet_jit.engine.options.config",
    "GenerationError": "bitnet_jit.errors",
    "InferenceEngine": "bitnet_jit.engine.engine",
    "InvalidInput": "bitnet_jit.errors",
    "LoraLinear": "bitnet_jit.nn.lora_linear",
    "PackedBitLinear": "bitnet_jit.nn.packed_bit_linear",
    "RMSNorm": "bitnet_jit.nn.rms_norm",
    "Sampling": "bitnet_jit.generation.sampling",
    "Speculation": "bitnet_jit.generation.speculation",
    "UnsupportedProblem": "bitnet_jit.errors",
    "add_lora": "bitnet_jit.nn.lora",
    "autotune": "bitnet_jit.tuning.autotune",
    "convert": "bitnet_jit.nn.convert",
    "convert_checkpoint": "bitnet_jit.checkpoints.converting",
    "embedded_model": "bitnet_jit.checkpoints.embedded",
    "explain": "bitnet_jit.tuning.explain",
    "get_num_threads": "bitnet_jit.devices.threads",
    "inspect_checkpoint": "bitnet_jit.checkpoints.inspection",
    "load": "bitnet_jit.checkpoints.loading",
    "lora_state_dict": "bitnet_jit.nn.lora",
    "merge_lora": "bitnet_jit.nn.lora_merge",
    "pack": "bitnet_jit.nn.convert",
    "patch": "bitnet_jit.integrations.transformers",
    "save": "bitnet_jit.checkpoints.saving",
    "set_num_threads": "bitnet_jit.devices.threads",
    "set_quantization_strength": "bitnet_jit.nn.warmup",
    "stream_text": "bitnet_jit.generation.text",
}

__all__ = ["__version__", *_HOMES]

moved.install()


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
