"""Directories on disk: several files, both scale senses, master weights; refusals, and nothing left behind by them."""

import gc
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import bitnet_jit
from bitnet_jit.checkpoints.embedded import embedded_model
from bitnet_jit.errors import CheckpointError, CheckpointWarning, InvalidInput

DIVISOR = {"quant_method": "bitnet"}
MULTIPLIER = {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "offline"}
ONLINE = {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "online"}
Q_PROJ = "model.layers.1.self_attn.q_proj"


def edit(directory, change) -> None:
    """Rewrite model.safetensors after `change` has edited the dictionary of its tensors."""
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors")


def parameters(decoder) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in decoder.state_dict().items()}


def assert_same(first, second) -> None:
    first, second = parameters(first), parameters(second)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def test_a_sharded_checkpoint_is_the_same_model(write_checkpoint):
    whole = bitnet_jit.load(write_checkpoint(name="whole"))
    sharded = bitnet_jit.load(str(write_checkpoint(name="sharded", num_shards=3)))
    assert_same(whole, sharded)


def test_both_senses_and_master_weights_are_the_same_model(write_checkpoint):
    multiplier = bitnet_jit.load(write_checkpoint(MULTIPLIER, name="multiplier", dtype=torch.float32))
    online = bitnet_jit.load(write_checkpoint(ONLINE, name="online", dtype=torch.float32))
    assert_same(multiplier, online)
    divisor = parameters(bitnet_jit.load(write_checkpoint(DIVISOR, name="divisor", dtype=torch.float32)))
    for name, tensor in parameters(multiplier).items():
        # 1 / (1 / s) in float32 may be one or two roundings away from s
        close = torch.allclose(tensor, divisor[name], rtol=3e-7, atol=0) if name.endswith("w_scale") else None
        assert torch.equal(tensor, divisor[name]) if close is None else close, name


def test_a_divisor_becomes_a_multiplier_in_one_division(write_checkpoint):
    directory = write_checkpoint(DIVISOR, dtype=torch.float32)
    divisor = load_file(directory / "model.safetensors")["model.layers.0.mlp.down_proj.weight_scale"]
    scale = bitnet_jit.load(directory).blocks[0].feed_forward.down.w_scale
    assert float(scale) == float(torch.tensor(1.0) / divisor)


def test_layers_that_share_an_input_keep_their_own_scales(write_checkpoint):
    directory = write_checkpoint(dtype=torch.float32)
    tensors = load_file(directory / "model.safetensors")
    stored = [tensors[f"model.layers.0.self_attn.{name}_proj.weight_scale"] for name in "qkv"]
    qkv = bitnet_jit.load(directory).blocks[0].attention.qkv
    assert torch.equal(qkv.w_scale, torch.cat([scale.expand(n) for scale, n in zip(stored, (64, 32, 32), strict=True)]))


def test_nothing_more_is_resident_than_the_weights(tiny, tmp_path):
    tensors = {tensor.untyped_storage().data_ptr(): tensor for tensor in (*tiny.parameters(), *tiny.buffers())}
    resident = sum(tensor.untyped_storage().nbytes() for tensor in tensors.values())
    bitnet_jit.save(tiny, tmp_path, "i2")
    stored = load_file(tmp_path / "model.safetensors")
    weights = sum(tensor.nbytes for name, tensor in stored.items() if not name.endswith("weight_scale"))
    rows = sum(tensor.numel() for name, tensor in tiny.named_parameters() if name.endswith("w_scale"))
    assert resident <= weights + 4 * rows
    assert 4 * rows < 0.04 * weights
    assert tiny.embedding.dtype == torch.float32
    assert tiny.head is None
    loose = [value for module in tiny.modules() for value in vars(module).values() if isinstance(value, torch.Tensor)]
    assert not loose


def test_weights_do_not_depend_on_the_activation_dtype(tiny):
    half = bitnet_jit.load(embedded_model(), dtype=torch.bfloat16)
    assert_same(tiny, half)
    ids = torch.arange(65, 97)[None]
    assert half(ids).dtype == torch.float32
    assert (half(ids) - tiny(ids)).abs().mean() < 0.3


def test_progress_is_told(write_checkpoint):
    seen = []
    bitnet_jit.load(write_checkpoint(), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 2), (2, 2)]


def test_scalars_of_old_versions_and_tied_heads_are_no_extra_tensors(write_checkpoint):
    directory = write_checkpoint(tie_word_embeddings=True)
    expected = bitnet_jit.load(directory)

    def change(tensors):
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
        tensors[f"{Q_PROJ}.weight_scale"] = tensors[f"{Q_PROJ}.weight_scale"].reshape(())

    edit(directory, change)
    assert_same(expected, bitnet_jit.load(directory))


def put(name, value):
    """Return a change that sets one tensor."""
    return lambda tensors: tensors.__setitem__(name, value)


def number_of_layers() -> int:
    """Return the number of packed layers that are alive."""
    kind = bitnet_jit.PackedBitLinear  # asked of the package once, not once per object: there are millions
    gc.collect()
    return sum(type(thing) is kind for thing in gc.get_objects())


BAD_TENSORS = {
    "missing": (lambda tensors: tensors.pop(f"{Q_PROJ}.weight"), [f"{Q_PROJ}.weight", "U8 (16, 64)", "no such"]),
    "missing scale": (lambda tensors: tensors.pop(f"{Q_PROJ}.weight_scale"), [f"{Q_PROJ}.weight_scale", "(1,)"]),
    "missing head": (lambda tensors: tensors.pop("lm_head.weight"), ["lm_head.weight", "(256, 64)", "no such"]),
    "extra": (put("model.layers.2.mlp.up_proj.weight", torch.ones(3)), ["1 tensors", "layers.2.mlp.up_proj.weight"]),
    "extra bias": (put(f"{Q_PROJ}.bias", torch.ones(64)), [f"{Q_PROJ}.bias", "attention_bias=False"]),
    "shape": (put(f"{Q_PROJ}.weight", torch.ones(16, 60, dtype=torch.uint8)), ["U8 (16, 64)", "found U8 (16, 60)"]),
    "dtype": (put(f"{Q_PROJ}.weight", torch.ones(16, 64)), ["expected U8 (16, 64)", "found F32 (16, 64)"]),
    "scale shape": (put(f"{Q_PROJ}.weight_scale", torch.ones(64)), ["weight_scale", "(1,)", "found F32 (64,)"]),
    "integer scale": (put(f"{Q_PROJ}.weight_scale", torch.ones(1, dtype=torch.uint8)), ["weight_scale", "found U8"]),
    "zero scale": (put(f"{Q_PROJ}.weight_scale", torch.zeros(1)), ["weight_scale", "positive finite", "found 0"]),
    "negative scale": (put(f"{Q_PROJ}.weight_scale", torch.tensor([-0.5])), ["weight_scale", "found -0.5"]),
    "NaN scale": (put(f"{Q_PROJ}.weight_scale", torch.tensor([torch.nan])), ["weight_scale", "found nan"]),
    "code 3": (put(f"{Q_PROJ}.weight", torch.full((16, 64), 0x1D, dtype=torch.uint8)), ["code 3 in 1024 places"]),
    "NaN embedding": (put("model.embed_tokens.weight", torch.full((256, 64), torch.nan)), ["embed_tokens", "NaN"]),
    "infinite norm": (put("model.norm.weight", torch.full((64,), torch.inf)), ["model.norm.weight", "infinity"]),
    "norm shape": (put("model.norm.weight", torch.ones(65)), ["model.norm.weight", "(64,)", "found F32 (65,)"]),
    "embedding": (put("model.embed_tokens.weight", torch.ones(255, 64)), ["embed_tokens", "found F32 (255, 64)"]),
    "float64 norm": (put("model.norm.weight", torch.ones(64, dtype=torch.float64)), ["model.norm.weight", "F64"]),
}


@pytest.mark.parametrize("case", BAD_TENSORS)
def test_wrong_tensors_are_named(write_checkpoint, case):
    change, words = BAD_TENSORS[case]
    directory = write_checkpoint()
    edit(directory, change)
    with pytest.raises(CheckpointError) as caught:
        bitnet_jit.load(directory)
    for word in [str(directory), *words]:
        assert word in str(caught.value)


def test_nothing_half_loaded_stays(write_checkpoint):
    directory = write_checkpoint()
    edit(directory, lambda tensors: tensors["model.norm.weight"].__setitem__(5, torch.nan))  # it is read last
    before = number_of_layers()
    with pytest.raises(CheckpointError, match="model.norm.weight") as caught:
        bitnet_jit.load(directory)
    assert number_of_layers() == before + 8  # alive in the error's frames
    del caught
    assert number_of_layers() == before


def test_master_weight_with_nan_is_refused(write_checkpoint):
    directory = write_checkpoint(ONLINE)
    edit(directory, lambda tensors: tensors[f"{Q_PROJ}.weight"].__setitem__((3, 4), torch.nan))
    with pytest.raises(CheckpointError, match=f"{Q_PROJ}.weight: expected finite values, found NaN"):
        bitnet_jit.load(directory)


@pytest.mark.parametrize(
    ("quantization", "value", "words"),
    [
        (MULTIPLIER, 47.0, r"weight_scale = 47 \(config.json makes it mean\|w\|, a multiplier\)"),
        (DIVISOR, 0.02, r"weight_scale = 0\.02 \(config.json makes it 1 / mean\|w\|, a divisor\)"),
    ],
)
def test_a_scale_that_contradicts_its_sense_warns(write_checkpoint, quantization, value, words):
    directory = write_checkpoint(quantization)
    edit(directory, put(f"{Q_PROJ}.weight_scale", torch.tensor([value])))
    with pytest.warns(CheckpointWarning, match=f"{Q_PROJ}.{words}"):
        bitnet_jit.load(directory)


def test_a_whole_model_of_wrong_sense_warns_once(write_checkpoint):
    directory = write_checkpoint(MULTIPLIER)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "quantization_config": DIVISOR}))
    with pytest.warns(CheckpointWarning) as caught:
        bitnet_jit.load(directory)
    assert len(caught) == 1
    assert "and 13 more tensors" in str(caught[0].message)


@pytest.mark.parametrize(("byte", "density"), [(0b01010101, "0.000"), (0b10001000, "1.000")])
def test_an_unlikely_density_warns(write_checkpoint, byte, density):
    directory = write_checkpoint()
    edit(directory, put(f"{Q_PROJ}.weight", torch.full((16, 64), byte, dtype=torch.uint8)))
    with pytest.warns(CheckpointWarning, match=f"{Q_PROJ}.weight: expected .* in 0.2..0.95, found {density}"):
        bitnet_jit.load(directory)


def test_no_directory_no_files_no_pickles(tmp_path):
    with pytest.raises(CheckpointError, match="nowhere: expected a directory"):
        bitnet_jit.load(tmp_path / "nowhere")
    (tmp_path / "config.json").write_bytes((embedded_model() / "config.json").read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match="pytorch_model.bin.*pickled weights are never read"):
        bitnet_jit.load(tmp_path)


@pytest.mark.parametrize(
    ("weight_map", "words"),
    [
        (None, "weight_map: expected an object"),
        ({}, "weight_map: expected an object"),
        ({"a": "../model.safetensors"}, "beside the index, found '../model.safetensors'"),
        ({"a": "/etc/passwd"}, "beside the index, found '/etc/passwd'"),
        ({"a": 3}, "beside the index, found 3"),
        ({"a": "missing.safetensors"}, "missing.safetensors: cannot be read"),
        ({"a": "model.safetensors"}, "model.safetensors: a: expected it here"),
    ],
)
def test_a_wrong_index_is_refused(write_checkpoint, weight_map, words):
    directory = write_checkpoint()
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(CheckpointError, match=words):
        bitnet_jit.load(directory)


def test_a_tensor_in_two_files_is_refused(write_checkpoint):
    directory = write_checkpoint(num_shards=2)
    first, second = sorted(directory.glob("*.safetensors"))
    save_file(load_file(first) | load_file(second), second)
    with pytest.raises(CheckpointError, match="a second one, the first is in model-00001"):
        bitnet_jit.load(directory)


def test_arguments(write_checkpoint):
    directory = write_checkpoint()
    with pytest.raises(InvalidInput, match=r"dtype: .* got torch.float16"):
        bitnet_jit.load(directory, dtype=torch.float16)
    with pytest.raises(InvalidInput, match="device: 'abacus' cannot be used"):
        bitnet_jit.load(directory, device="abacus")
