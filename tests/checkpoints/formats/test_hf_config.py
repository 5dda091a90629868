"""config.json: fields that are read from it, and fields that are refused in words."""

import json

import pytest

from bitnet_jit.checkpoints.embedded import embedded_model
from bitnet_jit.checkpoints.formats.hf_bitnet import Online, Packed
from bitnet_jit.checkpoints.formats.hf_config import read_config
from bitnet_jit.checkpoints.formats.hf_exact import ExactFloats
from bitnet_jit.checkpoints.formats.own_format import Own
from bitnet_jit.errors import CheckpointError
from bitnet_jit.models.rope_scaling import Llama3Scaling

LLAMA3 = {"factor": 8, "low_freq_factor": 1, "high_freq_factor": 4, "original_max_position_embeddings": 512}


def write_config(tmp_path, **changes):
    """Write the embedded model's config.json with some fields changed; None removes one."""
    fields = json.loads((embedded_model() / "config.json").read_text()) | changes
    path = tmp_path / "config.json"
    path.write_text(json.dumps({name: value for name, value in fields.items() if value is not None}))
    return path


def test_the_embedded_model():
    config, storage = read_config(embedded_model() / "config.json")
    assert (config.vocab_size, config.hidden_size, config.intermediate_size, config.num_layers) == (256, 384, 1024, 6)
    assert (config.num_heads, config.num_kv_heads, config.head_dim) == (6, 2, 64)
    assert (config.q_features, config.kv_features) == (384, 128)
    assert (config.context_length, config.norm_eps, config.rope_theta) == (1024, 1e-5, 1e4)
    assert (config.activation, config.sub_norms, config.tied_embeddings) == ("relu2", True, True)
    assert config.rope_scaling is None
    assert config.eos_ids == (0,)
    assert storage == Own("t5")


def test_floats_without_a_description_have_to_be_ternary(tmp_path):
    assert read_config(write_config(tmp_path, quantization_config=None))[1] == ExactFloats()


@pytest.mark.parametrize(
    ("quantization", "expected"),
    [
        ({}, Packed(scale_divides=True)),
        ({"linear_class": "bitlinear"}, Packed(scale_divides=True)),
        ({"linear_class": "autobitlinear"}, Packed(scale_divides=False)),
        ({"linear_class": "autobitlinear", "quantization_mode": "online"}, Online()),
        ({"modules_to_not_convert": ["lm_head"]}, Packed(scale_divides=True)),
    ],
)
def test_storage(tmp_path, quantization, expected):
    path = write_config(tmp_path, quantization_config={"quant_method": "bitnet", **quantization})
    assert read_config(path)[1] == expected


@pytest.mark.parametrize(
    ("fields", "theta", "scaling"),
    [
        ({"rope_theta": None}, 500000.0, None),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 9.0}}, 9.0, None),
        ({"rope_theta": 7.0, "rope_parameters": {"rope_type": "default"}}, 7.0, None),
        ({"rope_scaling": {"type": "llama3", **LLAMA3}}, 1e4, Llama3Scaling(8, 1, 4, 512)),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 5.0, **LLAMA3}}, 5.0, Llama3Scaling(8, 1, 4, 512)),
    ],
)
def test_rope(tmp_path, fields, theta, scaling):
    config, _ = read_config(write_config(tmp_path, **fields))
    assert (config.rope_theta, config.rope_scaling) == (theta, scaling)


def test_end_tokens_of_the_generation_config_count_too(tmp_path):
    path = write_config(tmp_path, eos_token_id=[3, 5])
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [5, 7]}')
    assert read_config(path)[0].eos_ids == (3, 5, 7)


BITNET = {"quant_method": "bitnet"}
FULL = ["full_attention"]
QWEN3 = {"model_type": "qwen3", "hidden_act": "silu"}


def test_qwen3(tmp_path):
    fields = {"rms_norm_eps": None, "rope_theta": None, "head_dim": None, "layer_types": FULL, "mlp_bias": True}
    config, _ = read_config(write_config(tmp_path, **QWEN3, **fields))
    assert (config.activation, config.sub_norms, config.qk_norms, config.mlp_bias) == ("silu", False, True, False)
    assert (config.head_dim, config.norm_eps, config.rope_theta) == (128, 1e-6, 10000.0)  # of transformers' class


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "qwen2"}, ["model_type", "'bitnet' or 'llama' or 'minicpm' or 'qwen3'", "'qwen2'"]),
        ({**QWEN3, "use_sliding_window": True}, ["use_sliding_window", "false", "True"]),
        ({**QWEN3, "use_sliding_window": 1}, ["use_sliding_window", "true or false", "1"]),
        ({**QWEN3, "layer_types": [*FULL, "sliding_attention"]}, ["layer_types", "alone", "sliding_attention"]),
        ({**QWEN3, "layer_types": 3}, ["layer_types", "a list of strings", "3"]),
        ({**QWEN3, "head_dim": 2**17}, ["num_attention_heads", "at most 262144"]),
        ({**QWEN3, "hidden_act": "relu2"}, ["hidden_act", "'silu'", "'relu2'"]),
        ({"model_type": None}, ["model_type", "no such field"]),
        ({"model_type": ["bitnet"]}, ["model_type", "['bitnet']"]),
        ({"hidden_size": 0}, ["hidden_size", "found 0"]),
        ({"hidden_size": True}, ["hidden_size", "found True"]),
        ({"hidden_size": 384.0}, ["hidden_size", "found 384.0"]),
        ({"hidden_size": 2**19}, ["hidden_size", "262144"]),
        ({"hidden_size": 448, "head_dim": None}, ["hidden_size", "num_attention_heads * head_dim = 444"]),
        ({"num_key_value_heads": 4}, ["num_key_value_heads", "divisor", "found 4"]),
        ({"num_key_value_heads": 12}, ["num_key_value_heads", "from 1 to 6"]),
        ({"head_dim": 63}, ["head_dim", "even", "63"]),
        ({"hidden_act": "silu"}, ["hidden_act", "relu2", "silu"]),
        ({"rms_norm_eps": -1.0}, ["rms_norm_eps", "positive", "-1.0"]),
        ({"rms_norm_eps": float("nan")}, ["rms_norm_eps", "positive", "nan"]),
        ({"rope_theta": float("inf")}, ["rope_theta", "inf"]),
        ({"rope_theta": 10**400}, ["rope_theta", "positive"]),
        ({"eos_token_id": 256}, ["eos_token_id", "0 to 255", "256"]),
        ({"eos_token_id": "x"}, ["eos_token_id", "'x'"]),
        ({"tie_word_embeddings": "yes"}, ["tie_word_embeddings", "true or false", "'yes'"]),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, ["rope_type", "or 'longrope'", "'dynamic'"]),
        ({"rope_scaling": {"rope_type": "longrope", "short_factor": [1, 0]}}, ["short_factor", "positive", "[1, 0]"]),
        ({"rope_scaling": {"rope_type": "longrope", "short_factor": 2.0}}, ["short_factor", "list", "2.0"]),
        ({"rope_scaling": {"rope_type": "llama3"}}, ["rope_scaling", "factor", "no such field"]),
        ({"rope_scaling": {"type": "llama3", **LLAMA3, "high_freq_factor": 1}}, ["high_freq_factor", "above"]),
        ({"rope_scaling": []}, ["rope_scaling", "an object", "[]"]),
        ({"partial_rotary_factor": 0.5}, ["partial_rotary_factor", "0.5"]),
        ({"quantization_config": {"quant_method": "gptq"}}, ["quant_method", "'bitnet'", "'gptq'"]),
        ({"quantization_config": {}}, ["quant_method", "no such field"]),
        ({"quantization_config": {**BITNET, "linear_class": "x"}}, ["linear_class", "'x'"]),
        ({"quantization_config": {**BITNET, "use_rms_norm": True}}, ["use_rms_norm", "not supported", "True"]),
        ({"quantization_config": {**BITNET, "modules_to_not_convert": []}}, ["modules_to_not_convert", "lm_head"]),
        (
            {"quantization_config": {**BITNET, "modules_to_not_convert": "lm_head"}},
            ["modules_to_not_convert", "a list"],
        ),
        ({"model_type": "llama", "hidden_act": "silu", "head_dim": 2**17}, ["num_attention_heads", "at most 262144"]),
        (
            {"quantization_config": {**BITNET, "modules_to_not_convert": ["lm_head", "mlp.up_proj"]}},
            ["modules_to_not_convert", "mlp.up_proj"],
        ),
    ],
)
def test_refusals_name_the_field_and_the_value(tmp_path, changes, words):
    path = write_config(tmp_path, **changes)
    with pytest.raises(CheckpointError) as caught:
        read_config(path)
    for word in [str(path), *words]:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "JSON"), (b"[]", "JSON object"), (b"{", "JSON"), (b"\xff\xfe", "JSON"), (b"[" * 10**6, "JSON")],
)
def test_no_json(tmp_path, content, words):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=words):
        read_config(path)


def test_no_file(tmp_path):
    with pytest.raises(CheckpointError, match=r"config\.json: cannot be read \(No such file"):
        read_config(tmp_path / "config.json")
