"""Formats as we write them: our reader's numbers, transformers' numbers, and refusals in words."""

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import bitnet_jit
from bitnet_jit.checkpoints.formats.hf_bitnet import Packed
from bitnet_jit.checkpoints.formats.hf_config import read_config
from bitnet_jit.checkpoints.formats.hf_config_json import config_json
from bitnet_jit.checkpoints.formats.hf_packing import repack
from bitnet_jit.checkpoints.formats.hf_writer import divided, divisor_of, pack_rows
from bitnet_jit.checkpoints.formats.registry import get_writer
from bitnet_jit.checkpoints.formats.writer import encoded
from bitnet_jit.checkpoints.model_tensors import packed_tensors
from bitnet_jit.checkpoints.publish import write_model
from bitnet_jit.errors import InvalidInput
from bitnet_jit.packing import FORMATS
from bitnet_jit.training.network import TrainedDecoder
from bitnet_jit.training.settings import TrainSettings

CONFIG = TrainSettings(layers=2, hidden_size=48, intermediate_size=64, heads=4, kv_heads=2).decoder()
LLAMA = replace(CONFIG, activation="silu", sub_norms=False, attention_bias=True, mlp_bias=True, tied_embeddings=False)
QWEN3 = replace(CONFIG, activation="silu", sub_norms=False, qk_norms=True, attention_bias=True)
IDS = torch.randint(0, 256, (2, 20), generator=torch.Generator().manual_seed(0))


def decoder(config):
    """Make a network with weights large enough that logits differ, and biases that are not zero."""
    network = TrainedDecoder(config, seed=1).eval()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.mul_(3)
            if name.endswith("bias"):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
            if name.endswith(("q_norm.weight", "k_norm.weight")):
                parameter.copy_(1 + torch.rand(parameter.shape, generator=generator))
    return network


def write(network, directory, linear_class):
    writer = get_writer(linear_class)
    write_model(directory, packed_tensors(network, writer), config_json(network.config, writer), writer.metadata({}))


@given(rows=st.sampled_from([4, 8, 36]), columns=st.integers(1, 9), seed=st.integers(0, 99))
def test_packing_rows_is_undone_by_the_reader(rows, columns, seed):
    codes = torch.randint(-1, 2, (rows, columns), generator=torch.Generator().manual_seed(seed), dtype=torch.int8)
    i2 = torch.empty(FORMATS["i2"].packed_shape(rows, columns), dtype=torch.uint8)
    repack(pack_rows(codes), i2, columns)
    assert torch.equal(FORMATS["i2"].unpack(i2, columns), codes)


@given(scale=st.floats(2.0**-16, 4.0, width=32))
def test_divisors_bring_the_scale_back_as_far_as_one_can(scale):
    wanted = torch.tensor([scale])
    inverse = torch.ones(1) / divisor_of(wanted)
    assert abs(inverse - wanted) <= abs(torch.ones(1) / (torch.ones(1) / wanted) - wanted)
    assert abs(inverse - wanted) <= wanted * 2.0**-23


@given(scale=st.floats(2.0**-16, 4.0, width=32), bias=st.floats(-100, 100, width=16))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_divided_biases_are_brought_back_as_far_as_one_can(scale, bias, dtype):
    scale, bias = torch.tensor([scale]), torch.tensor([bias, -0.0]).to(dtype)
    if not (bias.float() / scale).to(dtype).isfinite().all():
        with pytest.raises(
            InvalidInput, match="q_proj.bias: .* is not finite in torch.float16; use bitlinear, i2 or t5"
        ):
            divided("q_proj", bias, scale)
        return
    stored = divided("q_proj", bias, scale)
    assert stored.dtype == torch.float32
    torch.testing.assert_close(stored * scale, bias.float(), rtol=2.0**-23, atol=0)


@pytest.mark.parametrize(
    ("scale", "format"),
    [(1e-39, "bitlinear"), (0.0, "autobitlinear"), (float("nan"), "i2"), (float("inf"), "t5"), (-1.0, "bitlinear")],
)
def test_scales_that_no_reader_takes_are_refused(scale, format):
    codes = torch.ones(4, 4, dtype=torch.int8)
    with pytest.raises(InvalidInput, match=f"up_proj: its scale {scale:g} cannot be stored in format '{format}'"):
        encoded("up_proj", codes, torch.tensor([scale]), None, get_writer(format))


@pytest.mark.parametrize("config", [CONFIG, LLAMA, QWEN3], ids=["bitnet", "llama", "qwen3"])
@pytest.mark.parametrize("linear_class", ["autobitlinear", "bitlinear"])
def test_we_read_what_we_write(tmp_path, config, linear_class):
    network = decoder(config)
    write(network, tmp_path, linear_class)
    read, storage = read_config(tmp_path / "config.json")
    assert read == config
    assert storage == Packed(scale_divides=linear_class == "bitlinear")
    with torch.no_grad():
        logits, wanted = bitnet_jit.load(tmp_path)(IDS), network(IDS)
    torch.testing.assert_close(logits, wanted, rtol=0, atol=1e-3 * float(wanted.abs().max()))


@pytest.mark.filterwarnings("ignore")  # transformers' own
@pytest.mark.parametrize("config", [CONFIG, LLAMA, QWEN3], ids=["bitnet", "llama", "qwen3"])
@pytest.mark.parametrize("linear_class", ["autobitlinear", "bitlinear"])
def test_transformers_reads_what_we_write(tmp_path, config, linear_class):
    transformers = pytest.importorskip("transformers", reason="the package transformers is not installed")
    network = decoder(config)
    write(network, tmp_path, linear_class)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    with torch.no_grad():
        logits, wanted = model(IDS).logits, network(IDS)
    torch.testing.assert_close(logits, wanted, rtol=0, atol=2e-2 * float(wanted.abs().max()))


def test_packed_layers_of_either_packing_are_written_as_float_ones(tmp_path):
    network = decoder(CONFIG)
    writer = get_writer("autobitlinear")
    wanted = packed_tensors(network, writer)
    for format in ("i2", "t5"):
        tensors = packed_tensors(bitnet_jit.pack(decoder(CONFIG), format), writer)
        assert tensors.keys() == wanted.keys()
        assert all(torch.equal(tensors[name], wanted[name]) for name in wanted)


class Counter(nn.Linear):
    """A layer with a state that is no tensor."""

    def get_extra_state(self):
        return {"steps": 3}


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (
            nn.Sequential(bitnet_jit.BitLinear(4, 4), Counter(4, 4)),
            "model: 1._extra_state is no tensor but a dict, which no format holds",
        ),
        (nn.Sequential(nn.Linear(4, 4)), "model: Sequential has no ternary layer"),
        (
            nn.Sequential(bitnet_jit.BitLinear(4, 6)),
            "0: format 'autobitlinear' holds a multiple of 4 outputs, got 6; i2 and t5 any",
        ),
        (
            nn.Sequential(bitnet_jit.PackedBitLinear(4, 8, scale="row")),
            "0: this format holds layers with one scale and int8 activations, got scale='row'",
        ),
        (nn.Sequential(bitnet_jit.PackedBitLinear(4, 8, activation="a16")), "0: .* activation='a16'"),
    ],
)
def test_a_layer_that_the_format_cannot_hold_is_named(model, words):
    with pytest.raises(InvalidInput, match=words):
        packed_tensors(model, get_writer("autobitlinear"))


def test_other_formats_are_refused():
    with pytest.raises(InvalidInput, match="format: expected one of autobitlinear, bitlinear, i2, t5, got 'linear'"):
        get_writer("linear")


def test_the_config_is_plain_json(tmp_path):
    write(decoder(CONFIG), tmp_path, "bitlinear")
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["quantization_config"]["linear_class"] == "bitlinear"
    assert config["model_type"] == "bitnet"
