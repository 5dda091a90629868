"""A model that was saved is the same model again: over architectures, formats, sources, and older files in the folder.

The models of transformers are small; its own code reads our files, as users read them.
"""

import shutil
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_transformers import (
    FORMATS,
    HUGGING_FACE,
    NEAR,
    OURS,
    ROPES,
    assert_same_layers,
    build,
    logits,
    read_by_transformers,
    shard,
)
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

EXCLUDED = {"none": ["lm_head"], "a projection": ["*.o_proj", "lm_head"], "a layer": ["model.layers.1.*", "lm_head"]}
UNRELATED = {"README.md", "extra.safetensors"}
WRITTEN = {"config.json", "generation_config.json", "model.safetensors"}


def put(kind, folder, other):
    """Put older files into a folder: none, unrelated ones, or another model in one of several forms."""
    if kind == "nothing":
        return
    if kind == "unrelated":
        folder.mkdir()
        (folder / "README.md").write_text("ours")
        (folder / "extra.safetensors").write_bytes(b"?")
        return
    bitnet_jit.save(other, folder, "t5" if kind == "our format" else "autobitlinear")
    if kind == "shards":
        shard(folder)


def make(source, family, rope, exclude, **fields):
    """Make a model with ternary layers, of a source."""
    model = bitnet_jit.convert(build(family, rope, **fields), exclude=EXCLUDED[exclude])
    if source == "packed":
        return bitnet_jit.pack(model)
    if source == "merged":
        bitnet_jit.add_lora(bitnet_jit.pack(model, "t5"), r=2, include=["*.q_proj", "*.mlp.down_proj"])
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                nn.init.normal_(parameter, std=0.03)
        bitnet_jit.merge_lora(model)
    return model


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """Make a folder with another model in each form; each example begins with a copy of one."""
    folders = {}
    for kind in ("nothing", "unrelated", "one file", "shards", "our format"):
        folder = tmp_path_factory.mktemp("before") / "model"
        put(
            kind,
            folder,
            TrainedDecoder(TrainSettings(layers=1, hidden_size=16, intermediate_size=16, heads=2).decoder()),
        )
        folders[kind] = folder
    return folders


@settings(max_examples=settings.default.max_examples // 2)  # each loads models
@given(
    source=st.sampled_from(["converted", "packed", "merged"]),
    family=st.sampled_from(["bitnet", "llama", "qwen3"]),
    rope=st.sampled_from([*OURS, *OURS, *ROPES]),
    exclude=st.sampled_from(["none", "none", *EXCLUDED]),
    format=st.sampled_from(FORMATS),
    before=st.sampled_from(["nothing", "unrelated", "one file", "shards", "our format"]),
    tied=st.booleans(),
    biases=st.booleans(),
    kv_heads=st.sampled_from([1, 2, 4]),
    head_dim=st.sampled_from([8, 16]),
)
def test_a_saved_model_of_transformers_is_read_or_refused(
    others, source, family, rope, exclude, format, before, tied, biases, kv_heads, head_dim
):
    fields = {
        "tie_word_embeddings": tied,
        "attention_bias": biases,
        "mlp_bias": biases,
        "num_key_value_heads": kv_heads,
    }
    model = make(source, family, rope, exclude, head_dim=head_dim, **fields)
    known = model.config.rope_parameters["rope_type"] in OURS and exclude == "none"
    wanted = logits(model)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "model"
        if others[before].exists():
            shutil.copytree(others[before], folder)
        if not known and format not in HUGGING_FACE:
            assert_refused(model, folder, format)
            return
        unrelated = UNRELATED & set(contents(folder) or ())
        bitnet_jit.save(model, folder, format)
        assert set(contents(folder)) == unrelated | WRITTEN
        if known:
            loaded = bitnet_jit.load(folder)
            assert_same_layers(loaded, model, exact=format != "bitlinear")
            torch.testing.assert_close(logits(loaded), wanted, rtol=0, atol=NEAR)
            assert loaded.config.eos_ids == (2,)
            assert (loaded.head is None) == tied
            if source != "merged" or tied:
                assert torch.equal(loaded.embedding, model.get_input_embeddings().weight)
            bitnet_jit.save(loaded, folder, format)  # over itself
            assert_same_state(loaded, bitnet_jit.load(folder), exact=format != "bitlinear" and not biases)
        if format in HUGGING_FACE:
            torch.testing.assert_close(logits(read_by_transformers(folder)), wanted, rtol=0, atol=NEAR)


def contents(folder):
    """Return the bytes of each file of a folder, None where there is no folder."""
    return {file.name: file.read_bytes() for file in folder.iterdir()} if folder.exists() else None


def assert_refused(model, folder, format):
    """Assert that `save` refuses a model and leaves the folder as it was."""
    earlier = contents(folder)
    with pytest.raises(InvalidInput, match="model: "):
        bitnet_jit.save(model, folder, format)
    assert contents(folder) == earlier


def assert_same_state(a, b, exact):
    one, other = a.state_dict(), b.state_dict()
    assert one.keys() == other.keys()
    assert a.config == b.config
    for name, tensor in one.items():
        assert tensor.dtype == other[name].dtype
        if exact or not tensor.is_floating_point():
            assert torch.equal(tensor, other[name]), name
        torch.testing.assert_close(tensor, other[name], rtol=2e-7, atol=0)
