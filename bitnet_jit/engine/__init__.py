"""The engine: many requests for text or tensors at once, on the models and devices that it holds."""

from bitnet_jit.engine.devices.backends import (
    Backend,
    all_backends,
    backend_of,
    is_cuda_available,
    is_metal_available,
    is_mlx_available,
)
from bitnet_jit.engine.devices.selector import DeviceSelector
from bitnet_jit.engine.embeddings.embedding import Embedding
from bitnet_jit.engine.engine import InferenceEngine
from bitnet_jit.engine.grammar.grammar import Grammar
from bitnet_jit.engine.models.model import Model
from bitnet_jit.engine.models.usage import CacheStats, MemoryUsage, ModelMemory
from bitnet_jit.engine.options.builder import EngineBuilder
from bitnet_jit.engine.options.config import EngineConfig
from bitnet_jit.engine.options.levels import OptimizationLevel
from bitnet_jit.engine.options.memory_size import MemorySize
from bitnet_jit.engine.text.generation import Completion, Generation, Piece, TokenLogprobs
from bitnet_jit.engine.text.stats import ModelStats

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
