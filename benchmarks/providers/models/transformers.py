"""transformers on a GPU, in bfloat16: its model with our packed layers, and dense, compiled, with a static cache.

The models are built on "meta" and filled with the shape's weights, layer by layer; what `bitnet_jit.patch` makes of a
loaded model is the same. Their head stays in bfloat16, whatever head the others have.
"""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from benchmarks.harness.models.bounds import Storage
from benchmarks.harness.models.profile import outside_share
from benchmarks.harness.models.shapes import ModelShape
from benchmarks.harness.models.turns import seconds_of
from bitnet_jit.checkpoints.decoder_names import EMBEDDING, FINAL_NORM, HEAD, LinearName, block_names
from bitnet_jit.checkpoints.formats.hf_names import hf_layer
from bitnet_jit.checkpoints.formats.reader import Reader
from bitnet_jit.checkpoints.ternary import empty_i2
from bitnet_jit.models.config import DecoderConfig
from bitnet_jit.nn.packed_bit_linear import PackedBitLinear

DENSE = "transformers_dense"
DTYPE = torch.bfloat16


class TransformersModel:
    """A model of transformers as a contender.

    Args:
        name: as in --contenders.
        model: on its device.
        storage: how it holds its parts.
        compiled: whether steps are compiled and captured, over a static cache.
    """

    def __init__(self, name: str, model: Any, storage: Storage, compiled: bool) -> None:
        self.name, self.model, self.storage, self.compiled = name, model, storage, compiled
        self._prefill = torch.compile(model, dynamic=False) if compiled else model
        self._step = torch.compile(model, mode="reduce-overhead", fullgraph=True, dynamic=False) if compiled else model
        self.chosen: list[list[int]] = []  # the tokens of each step of the last text

    def set_threads(self, threads: int) -> None:
        torch.set_num_threads(threads)

    def read(self, ids: torch.Tensor) -> None:
        """Read prompts (B, T) and choose the first token of each."""
        self._first_token(self._prefill, ids, self._new_cache(len(ids), ids.shape[1] + 1)).tolist()

    def begin(self, ids: torch.Tensor, most_steps: int) -> Callable[[int], float]:
        """Read prompts (B, T); return a function that writes tokens and gives the seconds of each."""
        if self.compiled:
            torch.compiler.reset()  # every size of the cache is compiled anew, and the number of times is limited
        cache = self._new_cache(len(ids), ids.shape[1] + 1 + most_steps)
        chosen = self._first_token(self.model, ids, cache)  # not compiled: that takes long, and is not what is timed
        position = torch.tensor([ids.shape[1]], device=self.model.device)
        self.chosen = [chosen[:, 0].tolist()]

        def step() -> None:
            nonlocal chosen
            if self.compiled:
                torch.compiler.cudagraph_mark_step_begin()
            with torch.no_grad():
                logits = self._step(chosen, past_key_values=cache, position_ids=position[None], use_cache=True).logits
            chosen = logits[:, -1].argmax(-1, keepdim=True).clone()  # the graph's next replay overwrites its output
            position.add_(1)
            self.chosen.append(chosen[:, 0].tolist())

        return lambda steps: sum(seconds_of(step) for _ in range(steps)) / steps

    def outside_share(self, write: Callable[[int], float], steps: int, step_seconds: float) -> float | None:
        """Return the share of a step outside of memory-bound kernels, by the profiler."""
        return outside_share(write, steps, str(self.model.device), step_seconds)

    def _new_cache(self, batch: int, tokens: int) -> Any:
        from transformers import DynamicCache, StaticCache

        if not self.compiled:
            return DynamicCache()
        config = self.model.config
        cache = StaticCache(config, max_cache_len=tokens)
        # what is made inside of the compiled prompt is not known to stay at its address, and no graph is captured
        width = getattr(config, "head_dim", config.hidden_size // config.num_attention_heads)
        options = (self.model.dtype, self.model.device)
        cache.early_initialization(batch, config.num_key_value_heads, width, *options)
        return cache

    def _first_token(self, model: Any, ids: torch.Tensor, cache: Any) -> torch.Tensor:
        with torch.no_grad():
            ids = ids.to(self.model.device)
            logits = model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
        return logits[:, -1].argmax(-1, keepdim=True)

    def close(self) -> None:
        """Drop the model and what was compiled for it."""
        del self.model, self._prefill, self._step
        torch.compiler.reset()


def build_model(reader: Reader, device: str, dense: bool, dtype: torch.dtype = DTYPE) -> Any:
    """Build a model of transformers with a reader's weights, its ternary layers dense or packed."""
    config = reader.config
    with torch.device("meta"):
        model = new_model(config)
    model = model.to(dtype).eval()
    with reader:
        tensors = [EMBEDDING, FINAL_NORM] + ([] if config.tied_embeddings else [HEAD])
        for index in range(config.num_layers):
            names = block_names(config, index)
            tensors += [name for name, _ in names.floats(config)]
            for joint in names.linears:
                for layer in joint:
                    put(model, hf_layer(layer.name), linear(reader, layer, device, dense, dtype))
        for name in tensors:
            weight = nn.Parameter(reader.dense(name).to(device, dtype), requires_grad=False)
            model.get_submodule(hf_layer(name)).weight = weight
    model.tie_weights()
    with torch.device(device):  # the buffers of the first one are on "meta"
        model.model.rotary_emb = type(model.model.rotary_emb)(model.config)
    return model


def new_model(config: DecoderConfig) -> Any:
    """Return a model of transformers of an architecture."""
    from transformers import (
        BitNetConfig,
        BitNetForCausalLM,
        LlamaConfig,
        LlamaForCausalLM,
        Qwen3Config,
        Qwen3ForCausalLM,
    )

    fields = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": config.activation,
        "max_position_embeddings": config.context_length,
        "rms_norm_eps": config.norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "tie_word_embeddings": config.tied_embeddings,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
    if config.sub_norms:
        return BitNetForCausalLM(BitNetConfig(**fields))
    if config.qk_norms:
        return Qwen3ForCausalLM(Qwen3Config(**fields))
    return LlamaForCausalLM(LlamaConfig(**fields))


def linear(reader: Reader, layer: LinearName, device: str, dense: bool, dtype: torch.dtype) -> nn.Module:
    """Return a ternary layer, packed or as a dense one of a dtype."""
    weight = reader.ternary(layer, empty_i2(layer.out_features, layer.in_features))
    packed = PackedBitLinear.from_packed(
        weight.w_packed.to(device),
        weight.w_scale.to(device),
        in_features=layer.in_features,
        group_size=weight.group_size,
    )
    packed.weight_dtype = dtype
    if not dense:
        return packed
    module = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
    module.weight = nn.Parameter(packed.dequantize().to(dtype), requires_grad=False)
    return module


def put(model: nn.Module, name: str, module: nn.Module) -> None:
    """Set a module by its full name."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def unsupported_reason(device: str) -> str | None:
    """Return None, or the words for what is missing."""
    if torch.device(device).type != "cuda":
        return f"is measured on a GPU only, not on {device}"
    return None if find_spec("transformers") else "transformers not installed (pip install transformers)"


def prepare(name: str, shape: ModelShape, device: str, head: str) -> Callable[[], TransformersModel]:
    """Return a function that makes the contender.

    Raises:
        ValueError: it cannot take part.
    """
    if reason := unsupported_reason(device):
        raise ValueError(reason)
    dense = name == DENSE
    bits = 16 if dense else 2 + (32 / shape.group_size if shape.group_size else 0)
    storage = Storage(bits, 2, 2)
    return lambda: TransformersModel(name, build_model(shape.open_reader(), device, dense), storage, dense)
