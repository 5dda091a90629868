"""Models that nobody could read are refused before anything is written; the same models, set right, are saved."""

import warnings
from dataclasses import replace

import pytest
import torch
from small_transformers import FORMATS, IDS, NEAR, assert_same_layers, build, logits, transformers
from small_transformers import eager_transformers as eager_transformers
from torch import nn

import bitnet_jit
from bitnet_jit.errors import InvalidInput
from bitnet_jit.training.network import TrainedDecoder
from bitnet_jit.training.settings import TrainSettings

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),  # of transformers' imports
    pytest.mark.usefixtures("eager_transformers"),
]


def with_adapters():
    return bitnet_jit.add_lora(bitnet_jit.pack(bitnet_jit.convert(build("llama"))), r=2, include=["*.q_proj"])


def with_adapters_of_peft():
    peft = pytest.importorskip("peft", reason="the extra `peft` is not installed")
    from bitnet_jit.integrations.peft import register

    config = register(peft.LoraConfig(r=2, target_modules=["q_proj"]))
    return peft.get_peft_model(bitnet_jit.pack(bitnet_jit.convert(build("llama"))), config)


def with_adapters_on_dense_layers():
    peft = pytest.importorskip("peft", reason="the extra `peft` is not installed")
    model = bitnet_jit.convert(build("llama"), exclude=["*.o_proj", "lm_head"])
    return peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["o_proj"])).base_model.model


def with_a_missing_value():
    model = bitnet_jit.convert(build("llama"))
    model.model.norm.to("meta")
    return model


def with_a_wrapped_layer():
    model = bitnet_jit.convert(build("llama"))
    model.model.layers[0].mlp = torch.compile(model.model.layers[0].mlp)
    return model


def with_a_bias_of_one_layer():
    model = bitnet_jit.convert(build("llama"))
    model.model.layers[0].mlp.up_proj.bias = nn.Parameter(torch.ones(48))
    return model


def with_weights_that_are_not_finite():
    model = bitnet_jit.convert(build("llama"))
    nn.init.constant_(model.model.norm.weight, float("nan"))
    return model


def with_positions_that_are_not_finite():
    model = bitnet_jit.convert(build("llama", "dynamic"))
    model.model.rotary_emb.inv_freq[0] = float("inf")
    return model


REFUSED = {
    r"merge it first: bitnet_jit.merge_lora\(model\)": with_adapters,
    r"merge it first: model = model.merge_and_unload\(\)": with_adapters_of_peft,
    "o_proj is a Linear of peft": with_adapters_on_dense_layers,
    "lm_head is ternary, and readers keep the output head dense": lambda: bitnet_jit.convert(
        build("llama"), exclude=[]
    ),
    "a LlamaModel is the inner part of a model": lambda: bitnet_jit.convert(build("llama")).model,
    "model.norm.weight is on the meta device": with_a_missing_value,
    "mlp.*expected .*, found no such tensor": with_a_wrapped_layer,
    "up_proj.bias": with_a_bias_of_one_layer,
    "model.norm.weight: expected finite values": with_weights_that_are_not_finite,
    "inv_freq holds NaN or infinity": with_positions_that_are_not_finite,
    "model: expected a Decoder": lambda: nn.DataParallel(bitnet_jit.convert(build("llama"))),
}


@pytest.mark.parametrize("format", ["autobitlinear", "t5"])
@pytest.mark.parametrize("words", REFUSED)
def test_a_model_that_nobody_could_read_is_refused_before_anything_is_written(tmp_path, words, format):
    bitnet_jit.save(
        TrainedDecoder(TrainSettings(layers=1, hidden_size=16, intermediate_size=16, heads=2).decoder()), tmp_path
    )
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    model = REFUSED[words]()
    for folder in (tmp_path, tmp_path / "new" / "one"):
        with pytest.raises(InvalidInput, match=words):
            bitnet_jit.save(model, folder, format)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


@pytest.mark.filterwarnings("ignore::UserWarning")  # a merge says that it loses something
@pytest.mark.parametrize("format", FORMATS)
def test_adapters_of_peft_are_saved_when_merged(tmp_path, format):
    model = with_adapters_of_peft()
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.1)
    merged = model.merge_and_unload()
    bitnet_jit.save(merged, tmp_path, format)
    loaded = bitnet_jit.load(tmp_path)
    assert_same_layers(loaded, merged, exact=format != "bitlinear")
    torch.testing.assert_close(logits(loaded), logits(merged), rtol=0, atol=NEAR)


def test_an_inner_model_that_is_meant_to_be_alone_is_saved(tmp_path):
    model = bitnet_jit.convert(build("llama")).model
    model.config.architectures = ["LlamaModel"]
    bitnet_jit.save(model, tmp_path)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        read = transformers.AutoModel.from_pretrained(tmp_path).eval()
        torch.testing.assert_close(read(IDS).last_hidden_state, model(IDS).last_hidden_state, rtol=0, atol=0.1)


def test_a_config_that_a_decoder_cannot_say_is_refused(tmp_path):
    settings = TrainSettings(layers=1, hidden_size=16, intermediate_size=16, heads=2)
    model = TrainedDecoder(replace(settings.decoder(), mlp_bias=True))
    with pytest.raises(InvalidInput, match="config.json cannot say mlp_bias=True; a reader takes it for False"):
        bitnet_jit.save(model, tmp_path)
    assert not list(tmp_path.iterdir())
