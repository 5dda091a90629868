"""Qwen3.5: gated DeltaNet, gated attention and partial rotary positions against transformers' own model in float32."""

import json
from copy import deepcopy

import numpy as np
import pytest
import torch
from folded_models import keys_of, matrix
from gguf_files import Q2_0, TQ2_0
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx_folders import logits_of_mlx
from qwen35_mlx import as_prism_mlx
from qwen35_models import as_gguf, folded_names, random_model

import bitnet_jit
from bitnet_jit.errors import CacheFull, CheckpointError, InvalidInput
from bitnet_jit.runner.runner import Runner
from bitnet_jit.runner.step import Chunk

MODELS = {
    "every second layer attends": {"layer_types": ["linear_attention", "full_attention"] * 2},
    "four heads of values a key": {
        "linear_num_value_heads": 8,
        "linear_value_head_dim": 8,
        "linear_conv_kernel_dim": 2,
    },
    "three taps, odd sizes": {"linear_conv_kernel_dim": 3, "linear_key_head_dim": 24, "num_key_value_heads": 4},
    "half of a head turns, tied, biases": {
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
        "tie_word_embeddings": True,
        "attention_bias": True,
    },
}
BLOCKS = {"Q2_0": (Q2_0, 64), "TQ2_0": (TQ2_0, 256)}


@pytest.fixture(scope="module", params=MODELS)
def pair(request, tmp_path_factory):
    """Save a model of transformers, and load it as our decoder."""
    model = random_model(**MODELS[request.param])
    directory = tmp_path_factory.mktemp("qwen35")
    model.save_pretrained(directory)
    return bitnet_jit.load(directory), model


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    """Load one model."""
    directory = tmp_path_factory.mktemp("qwen35")
    random_model().save_pretrained(directory)
    return bitnet_jit.load(directory)


def prompt(tokens: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (2, tokens), generator=torch.Generator().manual_seed(seed))


def assert_near(logits, expected):
    """Compare logits as shares of their deviation."""
    difference = (logits - expected).abs() / expected.std()
    assert difference.mean() < 0.02
    assert difference.max() < 0.3


@pytest.mark.parametrize("tokens", [1, 3, 131])
def test_layers_and_logits_are_those_of_transformers(pair, tokens):
    decoder, model = pair
    ours, theirs = [], []
    hooks = [block.register_forward_hook(lambda _, x, y: ours.append(y[0] + y[1])) for block in decoder.blocks]
    hooks += [layer.register_forward_hook(lambda _, x, y: theirs.append(y)) for layer in model.model.layers]
    with torch.no_grad():
        expected = model(prompt(tokens)).logits
    logits = decoder(prompt(tokens))
    for hook in hooks:
        hook.remove()
    for actual, wanted in zip(ours, theirs, strict=True):
        torch.testing.assert_close(actual.view(wanted.shape), wanted, rtol=1e-4, atol=1e-4 * float(wanted.std()))
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4 * float(expected.std()))


def test_greedy_text_is_that_of_transformers(pair):
    decoder, model = pair
    ids = prompt(40)
    with torch.no_grad():
        expected = model.generate(ids, max_new_tokens=24, do_sample=False)
    assert torch.equal(decoder.generate(ids.tolist(), max_new_tokens=24), expected)


def test_bfloat16_is_near(pair):
    decoder, _ = pair
    expected = decoder(prompt(70))
    half = deepcopy(decoder).bfloat16()
    net = half.blocks[0].attention
    assert (net.decay.dtype, net.conv.dtype, net.norm.weight.dtype) == (torch.float32, torch.float32, torch.bfloat16)
    assert_near(half(prompt(70)), expected)


@settings(max_examples=12)
@given(cuts=st.lists(st.integers(1, 40), min_size=1, max_size=8), seed=st.integers(0, 9))
def test_any_cut_gives_the_same_bits_beside_others(decoder, cuts, seed):
    ids = prompt(sum(cuts), seed)[0].tolist()
    runner = Runner(decoder, 32, num_sequences=3)
    alone, cut, other = (runner.cache.new_sequence() for _ in range(3))
    whole = runner.step([Chunk(alone, ids, len(ids))])
    start = 0
    for count in cuts:
        chunks = [Chunk(other, [7] * (1 + count % 3)), Chunk(cut, ids[start : start + count], count)]
        parts = runner.step(chunks)[1:] if count % 2 else runner.repeat(chunks)[1:]
        assert torch.equal(parts, whole[start : start + count])
        start += count


def test_states_follow_their_sequences(decoder):
    runner = Runner(decoder, 32, num_sequences=2)
    first = runner.cache.new_sequence()
    runner.step([Chunk(first, [1, 2, 3])])
    fork = runner.cache.fork(first)
    with pytest.raises(CacheFull, match="num_sequences: all 2 slots"):
        runner.step([Chunk(runner.cache.new_sequence(), [1])])
    expected = runner.step([Chunk(first, [4])]).clone()
    assert torch.equal(runner.advance([fork], torch.tensor([4])).logits, expected)
    with pytest.raises(InvalidInput, match="length: expected 4, all tokens of a sequence with states, got 2"):
        runner.cache.fork(first, 2)
    runner.cache.truncate(first, 2)
    assert (first.length, first.pages, runner.cache.slots.count) == (0, [], 2)
    assert torch.equal(runner.step([Chunk(first, [1, 2, 3, 4])]), expected)


def test_a_step_that_fails_leaves_nothing_half_done(decoder, monkeypatch):
    """A state that a part of the layers has changed is not gone on with: the sequence begins anew."""
    runner = Runner(decoder, 8, captures=False)
    sequence = runner.cache.new_sequence()
    runner.step([Chunk(sequence, [1, 2, 3])])
    with monkeypatch.context() as patched:
        patched.setattr(decoder.blocks[2], "forward", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            runner.step([Chunk(sequence, [4])])
    runner.cache.truncate(sequence, sequence.length)
    assert sequence.length == 0


@pytest.mark.parametrize("kind", BLOCKS)
def test_a_gguf_file_gives_the_logits_of_its_model(tmp_path, kind):
    type_id, block = BLOCKS[kind]
    sizes = {"hidden_size": 256, "intermediate_size": 256, "linear_value_head_dim": 64, "head_dim": 64}
    model = random_model(group=block, **sizes)
    path = as_gguf(model, tmp_path / "model.gguf", type_id, block)
    with torch.no_grad():
        expected = model(prompt(33)).logits
    torch.testing.assert_close(
        bitnet_jit.load(path)(prompt(33)), expected, rtol=1e-4, atol=1e-4 * float(expected.std())
    )


def test_a_model_that_sees_pictures_is_read_as_text(tmp_path):
    model = random_model()
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    whole = {"model_type": "qwen3_5", "architectures": ["Qwen3_5ForConditionalGeneration"], "text_config": config}
    (tmp_path / "config.json").write_text(json.dumps(whole))
    rename(tmp_path, "model.", "model.language_model.", {"model.visual.patch.weight": torch.ones(3)})
    with torch.no_grad():
        expected = model(prompt(9)).logits
    torch.testing.assert_close(bitnet_jit.load(tmp_path)(prompt(9)), expected, rtol=1e-4, atol=1e-3)


def rename(directory, before, after, others):
    """Give the tensors of a folder names that begin otherwise, and add others."""
    from safetensors.torch import load_file, save_file

    path = directory / "model.safetensors"
    tensors = {
        name.replace(before, after, 1) if name.startswith(before) else name: tensor
        for name, tensor in load_file(path).items()
    }
    save_file(tensors | others, path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"linear_num_value_heads": 3}, "linear_num_value_heads: expected a multiple of linear_num_key_heads 2"),
        ({"linear_conv_kernel_dim": 9}, "linear_conv_kernel_dim: expected a whole number from 2 to 4"),
        ({"layer_types": ["full_attention"] * 4}, "layer_types: expected both"),
        ({"layer_types": ["linear_attention"] * 3}, "layer_types: expected 4 of"),
        (
            {"rope_parameters": {"partial_rotary_factor": 1.5}},
            "partial_rotary_factor: expected an even number of the 32",
        ),
    ],
)
def test_a_config_that_we_cannot_run_is_refused(tmp_path, changes, message):
    random_model().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(CheckpointError, match=message):
        bitnet_jit.load(tmp_path)


def test_guesses_and_writing_are_refused(decoder, tmp_path):
    with pytest.raises(InvalidInput, match="speculate: expected None, as this model has a gated DeltaNet"):
        decoder.generate([1, 2, 3], speculate="ngram")
    with pytest.raises(InvalidInput, match="hold no model with a gated DeltaNet; convert its files to q2_0"):
        bitnet_jit.save(decoder, tmp_path / "there")


def is_folded(name, weight):
    """Return whether a weight of transformers' model is one that may be folded."""
    return weight.dim() == 2 and not any(word in name for word in ("in_proj_b", "in_proj_a", "embed", "lm_head"))


def unfolded(model, block: int):
    """Return the model whose folded weights these are, and the signs by numbers of inputs."""
    plain, signs = deepcopy(model), {}
    transform = torch.from_numpy(matrix(block)).float()
    generator = torch.Generator().manual_seed(1)
    for name, weight in plain.named_parameters():
        if is_folded(name, weight):
            width = weight.shape[1]
            if width not in signs:
                signs[width] = 1 - 2.0 * torch.randint(0, 2, (width,), generator=generator)
            weight.data = (weight.data.unflatten(1, (-1, block)) @ transform).flatten(1) * signs[width]
    return plain, signs


@pytest.mark.parametrize("grouped", [True, False])
def test_a_folded_gguf_file_rotates_its_inputs(tmp_path, grouped):
    sizes = {"hidden_size": 128, "intermediate_size": 256, "linear_value_head_dim": 64, "head_dim": 64}
    heads = {} if grouped else {"linear_num_key_heads": 4}  # as many as of values: then there is one order alone
    model = random_model(group=64, **sizes, **heads)
    plain, signs = unfolded(model, 64)
    rotation = keys_of(
        folded_names(model),
        inverse_weight_names=None,
        sign_widths=np.array(list(signs)),
        sign_values=torch.cat(list(signs.values())).int().numpy(),
        gdn_v_grouped=grouped,
    )
    path = as_gguf(model, tmp_path / "model.gguf", Q2_0, 64, grouped=grouped, **rotation)
    with torch.no_grad():
        expected = plain(prompt(33)).logits
    torch.testing.assert_close(
        bitnet_jit.load(path)(prompt(33)), expected, rtol=1e-3, atol=1e-3 * float(expected.std())
    )


def test_a_folded_layer_whose_inputs_are_in_another_order_is_refused(tmp_path):
    sizes = {"hidden_size": 128, "intermediate_size": 256, "linear_value_head_dim": 64, "head_dim": 64}
    model = random_model(group=64, **sizes)
    absent = dict.fromkeys(("inverse_weight_names", "sign_widths", "sign_values"))
    rotation = keys_of(folded_names(model), sign_mode="identity", **absent)
    path = as_gguf(model, tmp_path / "model.gguf", Q2_0, 64, **rotation)
    with pytest.raises(CheckpointError, match=r"ssm_out.weight: expected prism\.hadamard\.gdn_v_grouped"):
        bitnet_jit.load(path)


WIDE = {"hidden_size": 512, "intermediate_size": 512, "head_dim": 128, "linear_value_head_dim": 128}


def test_a_folded_mlx_folder_gives_the_logits_of_mlx_lm(tmp_path):
    folder = as_prism_mlx(random_model(group=128, **WIDE), tmp_path / "mlx", 512)
    ids = prompt(19)[:1]
    expected = torch.from_numpy(logits_of_mlx(folder, ids[0].tolist()))
    decoder = bitnet_jit.load(folder)
    assert_near(decoder(ids)[0], expected)
    del decoder.blocks[1].feed_forward.down._modules["rotation"]
    assert float((decoder(ids)[0] - expected).abs().max() / expected.std()) > 0.3


@pytest.fixture(scope="module")
def small_mlx(tmp_path_factory):
    """Write a folder of mlx-lm; its config.json is to be changed in copies."""
    return as_prism_mlx(random_model(group=128, **WIDE), tmp_path_factory.mktemp("prism") / "mlx", 512)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema_version": 3}, "schema_version: expected a whole number from 1 to 2"),
        ({"tensor_namespace": "mlx-vlm-qwen3_5"}, "tensor_namespace: expected 'mlx-lm-text'"),
        ({"gdn_activation_layout": "tiled"}, "gdn_activation_layout: expected 'grouped'"),
        ({"quantization": {"bits": 4, "group_size": 128, "mode": "affine"}}, "quantization: expected {'group_size'"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings: expected false"),
        ({"modules": []}, "expected a module that config.json lists in modules"),
        ({"modules": [{"path": "lm_head", "block": 100}]}, "block: expected one of 0, 512"),
        ({"modules": [{"path": "lm_head", "block": 512, "embedding": True}]}, "embedding: expected true for"),
        ({"modules": [{"path": "lm_head", "block": 0}] * 2}, "path: expected the path of a module, each once"),
    ],
)
def test_a_folded_mlx_folder_that_we_do_not_know_is_refused(small_mlx, changes, message):
    config = json.loads((small_mlx / "config.json").read_text())
    (small_mlx / "changed").mkdir(exist_ok=True)
    (small_mlx / "changed" / "config.json").write_text(json.dumps(config | changes))
    (small_mlx / "changed" / "model.safetensors").unlink(missing_ok=True)
    (small_mlx / "changed" / "model.safetensors").hardlink_to(small_mlx / "model.safetensors")
    with pytest.raises(CheckpointError, match=message):
        bitnet_jit.load(small_mlx / "changed")


@pytest.mark.parametrize("guessing", [1, 4, 5, 2**31 - 1])
def test_blocks_that_guess_tokens_are_left_out_but_never_all(tmp_path, guessing):
    sizes = {"hidden_size": 256, "intermediate_size": 256, "linear_value_head_dim": 64, "head_dim": 64}
    layers = ["linear_attention", "full_attention"] * 2
    model = random_model(group=64, layer_types=layers, **sizes)
    path = as_gguf(model, tmp_path / "model.gguf", Q2_0, 64, **{"qwen35.nextn_predict_layers": guessing})
    if guessing < 4:
        assert len(bitnet_jit.load(path).blocks) == 4 - guessing
        return
    with pytest.raises(CheckpointError, match=r"qwen35\.nextn_predict_layers: expected a whole number from 0 to 3"):
        bitnet_jit.load(path)
