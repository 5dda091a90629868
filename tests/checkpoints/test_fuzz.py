"""Damaged files, cut off or with flipped bits: loading works or raises an error of ours."""

import json
import shutil
import warnings

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import bitnet_jit
from bitnet_jit.errors import BitNetError, CheckpointWarning

ONLINE = {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "online"}
FLAGS = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
TOKENIZER = json.dumps(
    {
        "version": "1.0",
        "added_tokens": [{"id": 3, "content": "<e>", "special": True, **FLAGS}],
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]},
    }
)
FUZZ = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def header_size(file) -> int:
    """Return the number of bytes of a safetensors file before its data."""
    with file.open("rb") as opened:
        return 8 + int.from_bytes(opened.read(8), "little")


def survives(directory) -> bool:
    """Load and run; False where an error of ours was raised. Any other exception fails the test."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CheckpointWarning)
        try:
            bitnet_jit.load(directory).generate([1, 2, 3], max_new_tokens=2)
        except BitNetError:
            return False
    return True


@pytest.fixture(params=["packed", "online", "sharded"])
def checkpoint(request, write_checkpoint):
    """Write a small checkpoint, and a copy to be damaged."""
    options = {"packed": {}, "online": {"quantization": ONLINE}, "sharded": {"num_shards": 2}}[request.param]
    directory = write_checkpoint(num_hidden_layers=1, **options)
    copy = directory.with_name("damaged")
    shutil.copytree(directory, copy)
    return directory, copy


def damage(checkpoint, suffix: str, change) -> bool:
    """Change the bytes of the first file with that suffix and load; see `survives`."""
    directory, copy = checkpoint
    file = sorted(directory.glob(f"*{suffix}"))[0]
    content = bytearray(file.read_bytes())
    changed = change(content, header_size(file) if suffix == ".safetensors" else len(content))
    (copy / file.name).write_bytes(content if changed is None else changed)
    return survives(copy)


@given(share=st.floats(0, 1))
@FUZZ
def test_truncated(checkpoint, share):
    for suffix in (".safetensors", ".json"):
        assert not damage(checkpoint, suffix, lambda content, _: content[: int(share * (len(content) - 1))])
        shutil.copytree(*checkpoint, dirs_exist_ok=True)


@given(flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 7)), min_size=1, max_size=8))
@pytest.mark.parametrize("where", ["header", "data", "config"])
@FUZZ
def test_flipped_bits(checkpoint, where, flips):
    def flip(content, head):
        first, last = (0, head) if where != "data" else (head, len(content))
        for share, bit in flips:
            content[first + int(share * (last - first))] ^= 1 << bit

    damage(checkpoint, ".json" if where == "config" else ".safetensors", flip)


@given(flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 7)), min_size=1, max_size=8))
@pytest.mark.parametrize("name", ["model.safetensors.index.json", "tokenizer.json", "generation_config.json"])
@FUZZ
def test_flipped_bits_beside_the_weights(write_checkpoint, name, flips):
    directory = write_checkpoint(name="model", num_hidden_layers=1, num_shards=2)
    (directory / "tokenizer.json").write_text(TOKENIZER)
    (directory / "generation_config.json").write_text('{"eos_token_id": [3, 4], "do_sample": true}')
    content = bytearray((directory / name).read_bytes())
    for share, bit in flips:
        content[int(share * len(content))] ^= 1 << bit
    (directory / name).write_bytes(content)
    survives(directory)
    shutil.rmtree(directory)


@given(
    share=st.floats(0, 1, exclude_max=True),
    value=st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=4),
)
@settings(FUZZ, max_examples=150)
def test_config_fields_of_any_value(checkpoint, share, value):
    directory, copy = checkpoint
    config = json.loads((directory / "config.json").read_text())
    fields = config["quantization_config"] if share < 0.3 else config
    fields[list(fields)[int(share * len(fields))]] = value
    (copy / "config.json").write_text(json.dumps(config))
    survives(copy)


def test_the_undamaged_one_works(checkpoint):
    (checkpoint[1] / "tokenizer.json").write_text(TOKENIZER)
    assert survives(checkpoint[1])


def test_a_model_that_computes_infinity_says_so(write_checkpoint):
    directory = write_checkpoint(dtype=torch.float32)
    from safetensors.torch import load_file, save_file

    tensors = load_file(directory / "model.safetensors")
    tensors["model.norm.weight"].fill_(3e38)
    save_file(tensors, directory / "model.safetensors")
    decoder = bitnet_jit.load(directory)
    for temperature in (0.0, 1.0):
        with pytest.raises(BitNetError, match="NaN or infinite"):
            decoder.generate([1, 2], max_new_tokens=1, temperature=temperature)
