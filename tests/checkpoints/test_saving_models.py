"""Saved models of transformers, read by its own code and by ours: patched, tied, of other dtypes and architectures."""

import json
import warnings
from dataclasses import replace

import pytest
import torch
from small_transformers import (
    FORMATS,
    HUGGING_FACE,
    NEAR,
    OURS,
    SIZES,
    build,
    logits,
    read_by_transformers,
    shard,
    transformers,
)
from small_transformers import eager_transformers as eager_transformers
from torch import nn

import bitnet_jit
from bitnet_jit.errors import InvalidInput
from bitnet_jit.models.rope_scaling import Llama3Scaling
from bitnet_jit.training.network import TrainedDecoder
from bitnet_jit.training.settings import TrainSettings

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),  # of transformers' imports
    pytest.mark.usefixtures("eager_transformers"),
]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("rope", [*OURS, "dynamic"])
def test_a_patched_model_is_saved_over_the_files_that_it_is_mapped_from(tmp_path, format, rope):
    bitnet_jit.save(bitnet_jit.convert(build("llama", rope, attention_bias=True)), tmp_path)
    shard(tmp_path)
    patched = bitnet_jit.patch(read_by_transformers(tmp_path))
    wanted = logits(patched)
    if rope == "dynamic" and format not in HUGGING_FACE:
        with pytest.raises(InvalidInput, match="found 'dynamic'"):
            bitnet_jit.save(patched, tmp_path, format)
        torch.testing.assert_close(logits(bitnet_jit.patch(read_by_transformers(tmp_path))), wanted)
        return
    bitnet_jit.save(patched, tmp_path, format)
    assert torch.equal(logits(patched), wanted)
    if rope in OURS:
        torch.testing.assert_close(logits(bitnet_jit.load(tmp_path)), wanted, rtol=0, atol=NEAR)
    if format in HUGGING_FACE:
        again = bitnet_jit.patch(read_by_transformers(tmp_path))
        torch.testing.assert_close(logits(again), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("format", FORMATS)
def test_the_rope_scaling_of_a_decoder_is_saved(tmp_path, format):
    settings = TrainSettings(
        layers=1, hidden_size=32, intermediate_size=48, heads=2, kv_heads=1, context_length=64, window=8
    )
    scaling = Llama3Scaling(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context=16)
    config = replace(settings.decoder(), rope_scaling=scaling)
    trained = TrainedDecoder(config).eval()
    bitnet_jit.save(trained, tmp_path, format)
    loaded = bitnet_jit.load(tmp_path)
    assert loaded.config == config
    torch.testing.assert_close(logits(loaded), logits(trained), rtol=0, atol=NEAR)
    if format in HUGGING_FACE:
        torch.testing.assert_close(logits(read_by_transformers(tmp_path)), logits(trained), rtol=0, atol=1e-3)


def untied(model):
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach() * 2)
    return model


def tied_under_an_untied_config(model):
    model.config.tie_word_embeddings = False
    return model


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("change", [untied, tied_under_an_untied_config])
def test_a_config_that_is_wrong_about_tied_weights_is_set_right(tmp_path, format, change):
    model = change(bitnet_jit.convert(build("bitnet", tie_word_embeddings=True)))
    bitnet_jit.save(model, tmp_path, format)
    assert json.loads((tmp_path / "config.json").read_text())["tie_word_embeddings"] is False
    assert torch.equal(bitnet_jit.load(tmp_path).head, model.lm_head.weight)
    if format in HUGGING_FACE:
        torch.testing.assert_close(logits(read_by_transformers(tmp_path)), logits(model), rtol=0, atol=NEAR)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_dtype_in_config_json_is_that_of_the_tensors(tmp_path, format, dtype):
    model = bitnet_jit.convert(build("llama", attention_bias=True).to(dtype))
    bitnet_jit.save(model, tmp_path / "model", format)
    bitnet_jit.save(bitnet_jit.load(tmp_path / "model"), tmp_path / "decoder", format)
    for name in ("model", "decoder"):
        assert json.loads((tmp_path / name / "config.json").read_text())["dtype"] == str(dtype).removeprefix("torch.")
        torch.testing.assert_close(logits(bitnet_jit.load(tmp_path / name)), logits(model).float(), rtol=0, atol=NEAR)
        if format in HUGGING_FACE:
            theirs = logits(read_by_transformers(tmp_path / name))
            assert theirs.dtype == dtype
            torch.testing.assert_close(theirs, logits(model), rtol=0, atol=NEAR)


def test_an_architecture_of_transformers_alone_is_read_by_transformers(tmp_path):
    torch.manual_seed(0)
    fields = {**SIZES, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "eos_token_id": 2}
    model = transformers.Qwen3ForSequenceClassification(transformers.Qwen3Config(**fields, num_labels=4)).eval()
    for exclude in (["score"], []):
        bitnet_jit.save(bitnet_jit.convert(model, exclude=exclude), tmp_path)
        said = json.loads((tmp_path / "config.json").read_text())
        assert said["quantization_config"]["modules_to_not_convert"] == exclude
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
        torch.testing.assert_close(logits(read), logits(model), rtol=0, atol=NEAR)


def test_a_compiled_model_is_saved_as_what_it_compiles(tmp_path):
    model = bitnet_jit.convert(build("llama"))
    bitnet_jit.save(torch.compile(model), tmp_path)
    torch.testing.assert_close(logits(bitnet_jit.load(tmp_path)), logits(model), rtol=0, atol=NEAR)


def test_saving_changes_neither_the_model_nor_settings_of_transformers(tmp_path):
    transformers.logging.set_verbosity_info()
    transformers.logging.enable_progress_bar()
    model = bitnet_jit.convert(build("llama", tie_word_embeddings=True))
    said, wanted = model.config.to_dict(), {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(5)
    bitnet_jit.save(model, tmp_path)
    drawn = torch.rand(1)
    assert torch.equal(drawn, torch.manual_seed(5) and torch.rand(1))
    assert model.config.to_dict() == said
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in model.state_dict().items())
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert transformers.logging.get_verbosity() == transformers.logging.INFO
    assert transformers.logging.is_progress_bar_enabled()
