"""The engine: many requests for text or tensors at once, on the models and devices that it holds."""

from bitnet_jit.engine.builder import EngineBuilder
from bitnet_jit.engine.config import EngineConfig
from bitnet_jit.engine.devices.backends import (
    Backend,
    all_backends,
    backend_of,
    is_cuda_available,
    is_metal_available,
    is_mlx_available,
)
from bitnet_jit.engine.devices.selector import DeviceSelector
from bitnet_jit.engine.engine import InferenceEngine
from bitnet_jit.engine.levels import OptimizationLevel
from bitnet_jit.engine.memory_size import MemorySize
from bitnet_jit.engine.model import Model
from bitnet_jit.engine.text.embedding import Embedding
from bitnet_jit.engine.text.generation import Completion, Generation, Piece, TokenLogprobs
from bitnet_jit.engine.text.grammar import Grammar
from bitnet_jit.engine.text.stats import ModelStats
from bitnet_jit.engine.usage import CacheStats, MemoryUsage, ModelMemory

__all__ = [
    "Backend",
    "CacheStats",
    "Completion",
    "DeviceSelector",
    "Embedding",
    "EngineBuilder",
    "EngineConfig",
    "Generation",
    "Grammar",
    "InferenceEngine",
    "MemorySize",
    "MemoryUsage",
    "Model",
    "ModelMemory",
    "ModelStats",
    "OptimizationLevel",
    "Piece",
    "TokenLogprobs",
    "all_backends",
    "backend_of",
    "is_cuda_available",
    "is_metal_available",
    "is_mlx_available",
]
