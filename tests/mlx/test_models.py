"""Models of mlx-lm on our kernels: the text of transformers, and the logits of mlx-lm itself."""

import json

import mlx.core as mx
import numpy as np
import pytest
from mlx_folders import as_mlx
from small_checkpoints import EXACT

import bitnet_jit.mlx as bjm

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
