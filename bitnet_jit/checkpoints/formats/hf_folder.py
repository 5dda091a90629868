"""`HfFolder`: the reader of folders of Hugging Face, config.json and safetensors, one file or several.

It knows names, shapes and files; how the ternary layers are stored is a `Storage`.
"""

import logging
import os
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import torch

from bitnet_jit.checkpoints.checks import Oddities, check_finite
from bitnet_jit.checkpoints.decoder_names import EMBEDDING, HEAD, LinearName, block_names, outer_shapes
from bitnet_jit.checkpoints.file_names import CONFIG, GENERATION
from bitnet_jit.checkpoints.formats.gguf.found import SUFFIX, names_in
from bitnet_jit.checkpoints.formats.hf_chat import read_chat
from bitnet_jit.checkpoints.formats.hf_config import read_config
from bitnet_jit.checkpoints.formats.hf_floats import PLAIN, SAME, FloatForms, forms_of
from bitnet_jit.checkpoints.formats.hf_names import HfNames, has_inner_norms, names_for
from bitnet_jit.checkpoints.formats.hf_pooling import read_pooling
from bitnet_jit.checkpoints.formats.hf_storage import Storage
from bitnet_jit.checkpoints.formats.hf_tokenizer import folder_tokenizer
from bitnet_jit.checkpoints.formats.reader import Chat, StoredAs
from bitnet_jit.checkpoints.formats.safetensors_file import DTYPES
from bitnet_jit.checkpoints.formats.sampling_keys import read_defaults
from bitnet_jit.checkpoints.tensor_files import TensorFiles, find_files
from bitnet_jit.checkpoints.ternary import TernaryWeight
from bitnet_jit.devices.huge_pages import CPU
from bitnet_jit.errors import CheckpointError
from bitnet_jit.generation.defaults import Defaults
from bitnet_jit.generation.tokenizer import Tokenizer
from bitnet_jit.models.config import DecoderConfig
from bitnet_jit.quant.rotation import SignedBlocks

logger = logging.getLogger(__name__)

MAX_NAMED = 3  # extra tensors that an error names


class HfFolder:
    """A model in a folder; see `Reader`."""

    def __init__(self, path: Path) -> None:
        self.directory = path
        if others := sorted(name for name in names_in(path) if name.endswith(SUFFIX)):
            logger.warning("%s: its safetensors are read; to read %s instead, name the file", path, ", ".join(others))
        config, self.storage = read_config(path / CONFIG)
        self.config = with_inner_norms(config, path)
        self.names, self.forms = names_for(self.config), PLAIN
        self.oddities = Oddities()
        self._close = ExitStack()

    @staticmethod
    def recognizes(path: Path) -> bool:
        """Return whether a path is a folder; missing files are told when it is read."""
        return os.path.isdir(path)  # unlike Path.is_dir it never raises

    @staticmethod
    def weight_files(path: Path) -> list[Path]:
        """Return the safetensors files, by name."""
        return sorted(find_files(path))

    @staticmethod
    def contents(path: Path) -> list[StoredAs]:
        """Return every tensor of the folder's files."""
        with TensorFiles(path) as files:
            places = {name: entry.source.tensors[name] for name, entry in files.entries.items()}
            return [StoredAs(name, at.dtype, at.shape, at.stop - at.start) for name, at in places.items()]

    @staticmethod
    def chat(path: Path) -> Chat:
        """Return what the folder's files say of chats."""
        return read_chat(path)

    def tokenizer(self) -> Tokenizer | None:
        """Return the tokenizer of tokenizer.json or tokenizer.model, else that of bytes where tokens are, or None."""
        return folder_tokenizer(self.directory, self.config.vocab_size)

    def defaults(self) -> Defaults:
        """Return what generation_config.json says of sampling."""
        return read_defaults(self.directory / GENERATION)

    def pooling(self) -> str | None:
        """Return what the folder's files of sentence-transformers say of pooling."""
        return read_pooling(self.directory)

    @property
    def description(self) -> str:
        """Return which format was found, in words."""
        return f"a folder of Hugging Face, {self.storage.description}"

    @property
    def bytes_read(self) -> int:
        """Return how many bytes of tensors have been read so far."""
        return self.files.bytes_read if "files" in vars(self) else 0  # they are opened on entering

    def __enter__(self) -> "HfFolder":
        with ExitStack() as stack:
            self.files = stack.enter_context(TensorFiles(self.directory))
            self.names = names_for(self.config, self.files.entries)
            self.forms = forms_of(self.config, self.names, self.files)
            check_tensors(self.config, self.files, self.storage, self.names, self.forms)
            self._close = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close.close()

    def holds_codes(self, name: str) -> bool:
        """Return whether the embedding or the head is stored in ternary codes."""
        return self.storage.holds_codes(self.files, self.names.layer(name))

    def dtype_of(self, name: str) -> torch.dtype:
        """Return the dtype in which `dense` reads a tensor."""
        dtype = DTYPES[self.files.entries[self.names.tensor(name)].dtype]
        is_kept = dtype.is_floating_point and self.forms.of(name) is SAME
        return dtype if is_kept else torch.float32  # such as codes of more than two bits

    def dense(self, name: str, device: torch.device = CPU) -> torch.Tensor:
        """Read an embedding, head or norm."""
        if name in (EMBEDDING, HEAD):
            return self.storage.read_table(self.files, self.names.layer(name), device)
        tensor = self.names.tensor(name)
        return self.forms.of(name).read(check_finite(self.files.place(tensor), self.files.read(tensor, device)))

    def rotation(self, layer: LinearName) -> SignedBlocks | None:
        """Return the rotation of a ternary layer's input, None where it has none."""
        return self.storage.rotation(self.files, in_file(self.names, layer))

    def ternary(self, layer: LinearName, out: torch.Tensor) -> TernaryWeight:
        """Read a ternary layer, its codes into `out`."""
        return self.storage.read(self.files, in_file(self.names, layer), out, self.oddities)


def in_file(names: HfNames, layer: LinearName) -> LinearName:
    """Return a layer by its name in the files."""
    return replace(layer, name=names.layer(layer.name))


def with_inner_norms(config: DecoderConfig, path: Path) -> DecoderConfig:
    """Return the architecture of a BitNet embedding model where the files of a folder have norms inside layers.

    No config.json tells it. Such a model may have been saved without a head.

    Raises:
        CheckpointError: the files cannot be read, or Gemma 3 has no such norms.
    """
    if not config.qk_norms or config.delta_net is not None:
        return config
    with TensorFiles(path) as files:
        names = set(files.entries)
    if has_inner_norms(names):
        has_head = f"{names_for(config, names).head}.weight" in names
        return replace(config, inner_norms=True, tied_embeddings=config.tied_embeddings or not has_head)
    if config.branch_norms:
        raise CheckpointError(f"{path}: expected a norm inside each layer of Gemma 3, as BitNet embedding models have")
    return config


def check_tensors(
    config: DecoderConfig, files: TensorFiles, storage: Storage, names: HfNames, forms: FloatForms
) -> None:
    """Raise CheckpointError unless the files hold exactly the model's tensors, with the right shapes and dtypes."""
    expected: set[str] = set()
    for name, shape in outer_shapes(config).items():
        if len(shape) == 2:
            expected.update(storage.require_table(files, names.layer(name), shape))
        else:
            files.require(names.tensor(name), shape)
            expected.add(names.tensor(name))
    for index in range(config.num_layers):
        block = block_names(config, index)
        for name, shape in block.floats(config):
            files.require(names.tensor(name), forms.of(name).stored(shape))
            expected.add(names.tensor(name))
        for layers in block.linears:
            for layer in layers:
                expected.update(storage.require(files, in_file(names, layer)))
    extra = sorted(name for name in files.entries.keys() - expected if not names.is_harmless(name))
    if extra:
        named = ", ".join(f"{name} in {files.entries[name].file.name}" for name in extra[:MAX_NAMED])
        raise CheckpointError(
            f"{files.directory}: found {len(extra)} tensors that a model of {config.num_layers} layers, "
            f"sub_norms={config.sub_norms}, qk_norms={config.qk_norms}, attention_bias={config.attention_bias} does "
            f"not have: {named}"
        )
