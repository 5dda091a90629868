"""llama.cpp on the CPU, through the C functions of llama-cpp-python: the same weights, one call of llama_decode a step.

What is timed is the wall time around llama_decode and the choice of the likeliest token. Weights are read into memory
of its own (no map of a file), the cache of keys and values is float16, its default.
"""

import ctypes
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.harness.models.bounds import Storage
from benchmarks.harness.models.shapes import SHAPES, ModelShape
from benchmarks.harness.models.turns import seconds_of
from benchmarks.providers.models.gguf_blocks import BlockType
from benchmarks.providers.models.gguf_file import Q8_BLOCK, Q8_BYTES, ternary_type, write_gguf
from bitnet_jit.models.config import DecoderConfig

MICRO_BATCH = 512  # tokens that llama.cpp runs at once, its default


class LlamaModel:
    """A model of llama.cpp as a contender.

    Args:
        name: as in --contenders, with the type of the ternary weights.
        file: a GGUF file; it is not needed afterwards.
        config: the architecture that the file must have.
        storage: how the file holds its parts.

    Raises:
        ValueError: llama.cpp cannot load the file, or takes it for another architecture.
    """

    is_profiled = False

    def __init__(self, name: str, file: Path, config: DecoderConfig, storage: Storage) -> None:
        import llama_cpp

        self.name, self.config, self.storage, self.lib = name, config, storage, llama_cpp
        self.threads = torch.get_num_threads()
        self._silent = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(self._silent, ctypes.c_void_p())
        llama_cpp.llama_backend_init()
        parameters = llama_cpp.llama_model_default_params()
        parameters.n_gpu_layers = 0
        parameters.load_mode = llama_cpp.LLAMA_LOAD_MODE_NONE
        self.model = llama_cpp.llama_model_load_from_file(str(file).encode(), parameters)
        if not self.model:
            raise ValueError(f"llama.cpp cannot load the model ({llama_cpp.__version__})")
        self._check_shape()
        self.context, self.shape = None, (0, 0)

    def _check_shape(self) -> None:
        lib, config = self.lib, self.config
        names = {
            "layers": (lib.llama_model_n_layer(self.model), config.num_layers),
            "hidden size": (lib.llama_model_n_embd(self.model), config.hidden_size),
            "heads": (lib.llama_model_n_head(self.model), config.num_heads),
            "kv heads": (lib.llama_model_n_head_kv(self.model), config.num_kv_heads),
            "vocabulary": (lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(self.model)), config.vocab_size),
        }
        wrong = [f"{name} {theirs} instead of {ours}" for name, (theirs, ours) in names.items() if theirs != ours]
        if wrong:
            raise ValueError(f"llama.cpp runs another architecture: {', '.join(wrong)}")

    @property
    def num_weights(self) -> int:
        """Return the number of all weights, as llama.cpp counts them."""
        return int(self.lib.llama_model_n_params(self.model))

    def set_threads(self, threads: int) -> None:
        self.threads = threads
        if self.context:
            self.lib.llama_set_n_threads(self.context, threads, threads)

    def _renew_context(self, texts: int, tokens: int) -> None:
        """Make a context of llama.cpp for so many texts of so many tokens, unless there is one of that size; empty it.

        Raises:
            MemoryError: there is not enough memory.
        """
        lib = self.lib
        if self.shape != (texts, tokens):
            self._free_context()
            parameters = lib.llama_context_default_params()
            parameters.n_ctx, parameters.n_seq_max = texts * tokens, texts
            parameters.n_batch, parameters.n_ubatch = max(texts, tokens, MICRO_BATCH), MICRO_BATCH
            parameters.n_threads = parameters.n_threads_batch = self.threads
            parameters.no_perf = True
            self.context = lib.llama_init_from_model(self.model, parameters)
            if not self.context:
                raise MemoryError(f"llama.cpp makes no context for {texts} texts of {tokens} tokens")
            self.shape = (texts, tokens)
        lib.llama_memory_clear(lib.llama_get_memory(self.context), False)

    def decode(self, tokens: NDArray[np.int64], positions: NDArray[np.int64], texts: NDArray[np.int64]) -> NDArray[Any]:
        """Run one call on tokens (T,) at their positions in their texts; return the logits of the last of each text.

        Raises:
            RuntimeError: llama.cpp cannot.
        """
        lib, count = self.lib, len(tokens)
        batch = lib.llama_batch_init(count, 0, 1)
        try:
            batch.n_tokens = count
            for i in range(count):
                batch.token[i], batch.pos[i] = int(tokens[i]), int(positions[i])
                batch.n_seq_id[i], batch.seq_id[i][0] = 1, int(texts[i])
                batch.logits[i] = int(i + 1 == count or texts[i] != texts[i + 1])
            if status := lib.llama_decode(self.context, batch):
                raise RuntimeError(f"llama_decode ended with status {status}")
            rows = len(np.unique(texts))
            logits = lib.llama_get_logits(self.context)
            return np.ctypeslib.as_array(logits, (rows, self.config.vocab_size))
        finally:
            lib.llama_batch_free(batch)

    def _prefill(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Read prompts (B, T), one after the other; return the likeliest token of each, (B,)."""
        length, chosen = ids.shape[1], []
        for text, prompt in enumerate(ids):
            logits = self.decode(prompt, np.arange(length), np.full(length, text))
            chosen.append(int(logits[0].argmax()))
        return np.array(chosen)

    def read(self, ids: torch.Tensor) -> None:
        """Read prompts (B, T) and choose the first token of each."""
        self._renew_context(len(ids), ids.shape[1] + 1)
        self._prefill(ids.numpy())

    def logits(self, ids: torch.Tensor) -> NDArray[np.float32]:
        """Return the logits of the token that follows a prompt (1, T): (vocab_size,)."""
        self._renew_context(1, ids.shape[1] + 1)
        length = ids.shape[1]
        return self.decode(ids.numpy()[0], np.arange(length), np.zeros(length, np.int64))[0].copy()

    def begin(self, ids: torch.Tensor, most_steps: int) -> Callable[[int], float]:
        """Read prompts (B, T); return a function that writes tokens and gives the seconds of each."""
        batch, length = ids.shape
        self._renew_context(batch, length + 1 + most_steps)
        chosen, position, texts = self._prefill(ids.numpy()), length, np.arange(batch)

        def step() -> None:
            nonlocal chosen, position
            chosen = self.decode(chosen, np.full(batch, position), texts).argmax(1)
            position += 1

        return lambda steps: sum(seconds_of(step) for _ in range(steps)) / steps

    def _free_context(self) -> None:
        if self.context:
            self.lib.llama_free(self.context)
            self.context, self.shape = None, (0, 0)

    def close(self) -> None:
        """Give the memory back."""
        self._free_context()
        if self.model:
            self.lib.llama_model_free(self.model)
            self.model = None


def unsupported_reason(device: str) -> str | None:
    """Return None, or the words for what is missing."""
    if device != "cpu":
        return f"runs on the CPU only, not on {device}"
    missing = [name for name in ("llama_cpp", "gguf") if find_spec(name) is None]
    return f"{' and '.join(missing)} not installed (pip install llama-cpp-python gguf)" if missing else None


def reads(kind: BlockType) -> bool:
    """Return whether the installed llama.cpp reads a type of ternary weights: it is given a file of two blocks."""
    shape = SHAPES["small-qwen3"]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.gguf"
        write_gguf(file, shape, "checkpoint", kind)
        try:
            LlamaModel("", file, shape.open_reader().config, Storage(0, 0, 0)).close()
        except ValueError:
            return False
        return True


def prepare(name: str, shape: ModelShape, device: str, head: str) -> Callable[[], LlamaModel]:
    """Write a shape's weights to a temporary file; return a function that has llama.cpp read it, once.

    Raises:
        ValueError: the contender cannot take part: packages are missing, or GGUF cannot hold such weights.
    """
    if reason := unsupported_reason(device):
        raise ValueError(reason)
    config = shape.open_reader().config
    kind = ternary_type(shape, config, reads)
    differs = f", a scale per {kind.block}" if 0 < shape.group_size < kind.block else ""
    storage = Storage(kind.bits, Q8_BYTES / Q8_BLOCK if head == "int8" else 2, 2)
    folder = tempfile.TemporaryDirectory()
    file = Path(folder.name) / "model.gguf"
    write_gguf(file, shape, head, kind)

    def make() -> LlamaModel:
        with folder:
            return LlamaModel(f"{name} {kind.name}{differs}", file, config, storage)

    return make
