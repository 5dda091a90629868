"""Models of mlx-lm on our kernels: the text of transformers, and the logits of mlx-lm itself."""

import json

import mlx.core as mx
import numpy as np
import pytest
from mlx import nn
from mlx_folders import as_mlx
from small_checkpoints import EXACT

import bitnet_jit.mlx as bjm
from bitnet_jit import InvalidInput

mlx_utils = pytest.importorskip("mlx_lm.utils", reason="needs mlx-lm: pip install mlx-lm")
PROJECTIONS = 7  # ternary layers of a block


def loaded(folder):
    """A model of mlx-lm in float32; a null in the place of modules that stay floats is more than it takes."""
    said = json.loads((folder / "config.json").read_text()).get("quantization_config")
    changes = {"quantization_config": {key: said[key] for key in said if said[key] is not None}} if said else {}
    model, _ = mlx_utils.load_model(folder, model_config=changes)
    model.set_dtype(mx.float32)
    return model


def greedy_tokens(model, prompt, count):
    """The prompt and the largest logit's token, again and again, by mlx-lm's own loop."""
    from mlx_lm.generate import generate_step

    steps = generate_step(mx.array(prompt), model, max_tokens=count, sampler=lambda logits: mx.argmax(logits, axis=-1))
    return [*prompt, *(token for token, _ in steps)]


def packed_layers(model):
    return [module for module in model.modules() if isinstance(module, bjm.PackedBitLinear)]


def test_a_patched_model_writes_what_transformers_does(embedded_for_transformers, reference):
    model = bjm.patch(loaded(embedded_for_transformers), "a8")
    assert len(packed_layers(model)) == 6 * PROJECTIONS
    expected = reference["greedy"].tolist()
    prompt = reference["greedy_prompt"].tolist()
    assert greedy_tokens(model, prompt, len(expected) - len(prompt)) == expected
    logits = np.array(model(mx.array(reference["input_ids"])[None])[0])
    assert np.abs(logits - reference["logits"]).mean() < 0.1


def test_a_patched_model_of_floats_computes_as_its_own_weights_do(write_checkpoint, tmp_path):
    folder = as_mlx(write_checkpoint(EXACT, "llama", rms_norm_eps=1e-5), tmp_path / "mlx")
    plain, patched = loaded(folder), bjm.patch(loaded(folder))
    assert packed_layers(patched)
    ids = mx.arange(1, 30)[None]
    assert mx.allclose(plain(ids), patched(ids), rtol=1e-4, atol=1e-4).item()


def quantized(bias=True):
    """A layer of 2 bits that is ternary, with a scale per group."""
    layer, rng = nn.QuantizedLinear(128, 5, bias=bias, group_size=64, bits=2), np.random.default_rng(0)
    codes = rng.integers(0, 3, (5, 8, 16)).astype(np.uint32)
    layer.weight = mx.array((codes << 2 * np.arange(16, dtype=np.uint32)).sum(-1).astype(np.uint32))
    layer.scales = mx.array(rng.random((5, 2)).astype(np.float32) + 0.5)
    layer.biases = -layer.scales
    return layer


@pytest.mark.parametrize("bias", [True, False])
def test_a_ternary_layer_of_mlx_is_the_same_patched(bias):
    model = nn.Sequential(quantized(bias))
    x = mx.random.normal((3, 128))
    expected = model(x)
    assert mx.allclose(bjm.patch(model)(x), expected, rtol=1e-4, atol=1e-4).item()
    assert isinstance(model.layers[0], bjm.PackedBitLinear)
    assert model.layers[0].group_size == 64


@pytest.mark.parametrize("damage", ["a code 3", "other biases", "4 bits"])
def test_layers_that_are_not_ternary_are_left_alone(damage):
    layer = nn.QuantizedLinear(128, 5, bits=4) if damage == "4 bits" else quantized()
    if damage == "a code 3":
        layer.weight = layer.weight | 0xC0000000
    if damage == "other biases":
        layer.biases = layer.biases * 1.5
    model = nn.Sequential(layer, quantized())
    bjm.patch(model)
    assert model.layers[0] is layer
    assert isinstance(model.layers[1], bjm.PackedBitLinear)


@pytest.mark.parametrize("divides", [True, False])
def test_a_bit_linear_of_mlx_lm_is_the_same_patched(divides):
    from mlx_lm.models.bitlinear_layers import BitLinear
    from small_checkpoints import hf_pack

    w_q = np.random.default_rng(0).integers(-1, 2, (8, 33)).astype(np.int8)
    layer = BitLinear(33, 8, bias=True, invert_weight_scales=divides)
    layer.weight, layer.weight_scale = mx.array(hf_pack(w_q).numpy()), mx.array([4.0])
    layer.bias = mx.arange(8).astype(mx.float32)
    model, x = nn.Sequential(layer), np.random.default_rng(1).standard_normal((3, 33)).astype(np.float32)
    expected = x @ w_q.T * (0.25 if divides else 4.0) + np.arange(8)
    assert np.allclose(np.array(bjm.patch(model)(mx.array(x))), expected, atol=1e-4)
    broken = BitLinear(33, 8)
    broken.weight = mx.full((2, 33), 255, dtype=mx.uint8)
    with pytest.raises(InvalidInput, match="model: expected ternary codes, found 264 of 264 that are 3"):
        bjm.patch(nn.Sequential(broken))
