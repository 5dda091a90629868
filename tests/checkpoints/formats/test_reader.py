"""A format is one class and one name in FORMATS: shown by a format of one file, with scales of groups, made up here."""

from pathlib import Path

import pytest
import torch

import bitnet_jit
from bitnet_jit.checkpoints.checks import Oddities
from bitnet_jit.checkpoints.decoder_names import block_names, outer_shapes
from bitnet_jit.checkpoints.formats import registry
from bitnet_jit.checkpoints.formats.hf_folder import HfFolder
from bitnet_jit.checkpoints.ternary import TernaryWeight
from bitnet_jit.errors import CheckpointError, InvalidInput
from bitnet_jit.generation.defaults import Defaults
from bitnet_jit.generation.tokenizer import ByteTokenizer
from bitnet_jit.models.config import DecoderConfig
from bitnet_jit.packing import FORMATS
from bitnet_jit.packing.i2 import I2

CONFIG = DecoderConfig(
    vocab_size=256,
    hidden_size=32,
    intermediate_size=48,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    context_length=64,
    norm_eps=1e-5,
    rope_theta=1e4,
    rope_scaling=None,
    activation="silu",
    sub_norms=False,
    tied_embeddings=False,
    attention_bias=True,
    mlp_bias=False,
    eos_ids=(0,),
)
GROUP = 16


def draw(name, *shape):
    """Draw floats that depend on the name of a tensor alone."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(name.encode())))


class DrawnFile:
    """A reader of files that hold nothing: every tensor is drawn from its name."""

    config, description, bytes_read = CONFIG, "drawn", 0

    def __init__(self, path):
        self.path, self.oddities, self.reads = path, Oddities(), []

    @staticmethod
    def recognizes(path):
        return path.suffix == ".drawn"

    def tokenizer(self):
        return ByteTokenizer()

    def defaults(self):
        return Defaults()

    def pooling(self):
        return "last"

    def __enter__(self):
        self.is_open = True
        return self

    def __exit__(self, *_):
        self.is_open = False

    def holds_codes(self, name):
        return False

    def dense(self, name, device):
        assert self.is_open
        self.reads.append(name)
        return draw(name, *outer_shapes(CONFIG).get(name, (CONFIG.hidden_size,))).to(device)

    def ternary(self, layer, out):
        assert self.is_open
        self.reads.append(layer.name)
        out.copy_(I2.pack(codes(layer)))
        bias = draw(f"{layer.name}.bias", layer.out_features) if layer.has_bias else None
        return TernaryWeight(out, scales(layer), bias, layer.in_features, GROUP)


def codes(layer):
    return draw(layer.name, layer.out_features, layer.in_features).round().clamp(-1, 1).to(torch.int8)


def scales(layer):
    return draw(f"{layer.name}.scale", layer.out_features, layer.in_features // GROUP).abs() + 0.1


@pytest.fixture
def drawn(tmp_path, monkeypatch) -> Path:
    """Make a file of the new format, and register the format."""
    monkeypatch.setattr(registry, "FORMATS", (DrawnFile, *registry.FORMATS))
    path = tmp_path / "model.drawn"
    path.write_bytes(b"")
    return path


def test_a_new_format_is_loaded_by_its_path(drawn):
    decoder = bitnet_jit.load(drawn)
    assert decoder.config == CONFIG
    assert isinstance(decoder.tokenizer, ByteTokenizer)
    names = block_names(CONFIG, 1)
    for layers, module in (
        (names.attention.qkv, decoder.blocks[1].attention.qkv),
        (names.feed_forward.down, decoder.blocks[1].feed_forward.down),
    ):
        w_q, w_scale = module.unpack()
        assert torch.equal(w_q, torch.cat([codes(layer) for layer in layers]))
        assert torch.equal(w_scale, torch.cat([scales(layer) for layer in layers]))
    biases = [draw(f"{layer.name}.bias", layer.out_features) for layer in names.attention.qkv]
    assert torch.equal(decoder.blocks[1].attention.qkv.bias, torch.cat(biases))
    assert torch.equal(decoder.embedding, draw("embedding", 256, 32))
    assert torch.equal(decoder.norm.weight, draw("norm", 32))
    assert decoder.generate([1, 2], max_new_tokens=3).shape == (5,)


def test_each_tensor_is_read_once_and_the_file_is_closed(drawn, monkeypatch):
    readers = []
    monkeypatch.setattr(DrawnFile, "recognizes", staticmethod(lambda path: path == drawn))
    monkeypatch.setattr(DrawnFile, "tokenizer", lambda self: readers.append(self))
    bitnet_jit.load(str(drawn))
    (reader,) = readers
    blocks = [block_names(CONFIG, index) for index in range(CONFIG.num_layers)]
    expected = {*outer_shapes(CONFIG), *(name for block in blocks for name, _ in block.floats(CONFIG))}
    expected |= {layer.name for block in blocks for layers in block.linears for layer in layers}
    assert sorted(reader.reads) == sorted(expected)
    assert not reader.is_open


@pytest.mark.parametrize("format", ["autobitlinear", *FORMATS])
def test_scales_of_groups_are_refused_when_saved(drawn, tmp_path, format):
    decoder = bitnet_jit.load(drawn)
    with pytest.raises(InvalidInput, match="layers.0.self_attn.q_proj: .* one scale, got scale='group'"):
        bitnet_jit.save(decoder, tmp_path / "again", format)
    assert not (tmp_path / "again").exists()


def test_a_path_that_no_format_recognizes(tmp_path):
    path = tmp_path / "model.drawn"
    path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="model.drawn: expected a directory .*, found another file"):
        bitnet_jit.load(path)
    with pytest.raises(CheckpointError, match="model.drawn: expected a model in a known format"):
        registry.make_reader(path)


def test_a_folder_is_described_before_its_tensors_are_looked_for(write_checkpoint):
    folder = write_checkpoint()
    (folder / "model.safetensors").unlink()
    reader = HfFolder(folder)
    assert reader.config.num_layers == 2
    with pytest.raises(CheckpointError, match=r"expected model\.safetensors or"):
        reader.__enter__()
