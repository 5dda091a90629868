"""Whatever `save` writes is the model again: over architectures, formats, sources, and what lay in the folder before.

The models of transformers are small; its own code reads what we wrote for it, as users read it.
"""

import json
import shutil
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

import bitnet_jit
from bitnet_jit.errors import InvalidInput
from bitnet_jit.models.config import RopeScaling
from bitnet_jit.training.network import TrainedDecoder
from bitnet_jit.training.settings import TrainSettings

transformers = pytest.importorskip("transformers", reason="the extra `transformers` is not installed")

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning"
)  # of transformers' imports

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
}
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
ROPES = {
    "default": {"rope_theta": 500.0},
    "llama3": {"rope_theta": 5000.0, **LLAMA3},
    "linear": {"rope_theta": 5000.0, "factor": 4.0},
    "dynamic": {"rope_theta": 5000.0, "factor": 4.0},
    "yarn": {"rope_theta": 5000.0, "factor": 4.0, "original_max_position_embeddings": 16},
    "longrope": {
        "rope_theta": 5000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 16,
    },
}
LONG = {"short_factor": 1.0, "long_factor": 2.0}
OURS = ("default", "llama3")
EXCLUDED = {"none": ["lm_head"], "a projection": ["*.o_proj", "lm_head"], "a layer": ["model.layers.1.*", "lm_head"]}
FAMILIES = {"bitnet": "BitNet", "llama": "Llama"}
HUGGING_FACE = ("autobitlinear", "bitlinear")
FORMATS = (*HUGGING_FACE, "i2", "t5")
NEAR = 2e-2  # of logits that deviate by 0.1: an activation at a half-integer may get another code
IDS = torch.randint(3, 60, (2, 40), generator=torch.Generator().manual_seed(3))


@pytest.fixture(autouse=True)
def _their_functions_run_eagerly():
    """transformers compiles small functions at their first call, which takes a C++ compiler and many seconds."""
    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    with torch.compiler.set_stance("force_eager"):
        yield
    transformers.logging.set_verbosity(level)


def build(family, rope="default", head_dim=8, **fields):
    """A model of transformers with random weights and biases that are not zero."""
    torch.manual_seed(0)
    fields = {**SIZES, "eos_token_id": 2, "num_key_value_heads": 2, **fields}
    if family == "bitnet":
        head_dim = 8  # its config has no such field
        fields.pop("mlp_bias", None)
    else:
        fields["head_dim"] = head_dim
    config = getattr(transformers, f"{FAMILIES[family]}Config")(
        **fields, rope_parameters=rope_parameters(rope, head_dim)
    )
    model = getattr(transformers, f"{FAMILIES[family]}ForCausalLM")(config)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.1)
    return model.eval()


def rope_parameters(rope, head_dim):
    """Those of a kind; longrope has a factor per pair of dimensions."""
    lists = {name: [first + 0.5 * i for i in range(head_dim // 2)] for name, first in LONG.items()}
    return {"rope_type": rope, **ROPES[rope], **(lists if rope == "longrope" else {})}


def logits(model):
    with torch.no_grad():
        found = model(IDS)
    return found if isinstance(found, torch.Tensor) else found.logits


def read_by_transformers(folder, dtype=None):
    options = {} if dtype is None else {"dtype": dtype}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return transformers.AutoModelForCausalLM.from_pretrained(folder, **options).eval()


def put(kind, folder, other):
    """What lay in the folder before: None, or the files of another model in one of several forms."""
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


def shard(folder, count=3):
    """Part model.safetensors into several files with an index."""
    tensors, weight_map = load_file(folder / "model.safetensors"), {}
    for index in range(count):
        file = f"model-{index + 1:05}-of-{count:05}.safetensors"
        names = sorted(tensors)[index::count]
        save_file({name: tensors[name].clone() for name in names}, folder / file, {"format": "pt"})
        weight_map |= dict.fromkeys(names, file)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def make(source, family, rope, exclude, **fields):
    """A model with ternary layers, of a source, whose float logits are known."""
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
    """A folder with another model in each form, of which each example begins with a copy."""
    found = {}
    for kind in ("nothing", "unrelated", "one file", "shards", "our format"):
        folder = tmp_path_factory.mktemp("before") / "model"
        put(
            kind,
            folder,
            TrainedDecoder(TrainSettings(layers=1, hidden_size=16, intermediate_size=16, heads=2).decoder()),
        )
        found[kind] = folder
    return found


@settings(max_examples=settings.default.max_examples // 2)  # each loads models
@given(
    source=st.sampled_from(["converted", "packed", "merged"]),
    family=st.sampled_from(["bitnet", "llama"]),
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
        earlier = {file.name: file.read_bytes() for file in folder.iterdir()} if folder.exists() else None
        if not known and format not in HUGGING_FACE:
            with pytest.raises(InvalidInput, match="model: "):
                bitnet_jit.save(model, folder, format)
            now = {file.name: file.read_bytes() for file in folder.iterdir()} if folder.exists() else None
            assert now == earlier
            return
        bitnet_jit.save(model, folder, format)
        unrelated = {"README.md", "extra.safetensors"} & set(earlier or ())
        assert {file.name for file in folder.iterdir()} == unrelated | {
            "config.json",
            "generation_config.json",
            "model.safetensors",
        }
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


def assert_same_layers(decoder, model, exact):
    """Codes and scales of a decoder's layers are those of the model of transformers."""
    for block, theirs in zip(decoder.blocks, model.model.layers, strict=True):
        pairs = {
            block.attention.qkv: [theirs.self_attn.q_proj, theirs.self_attn.k_proj, theirs.self_attn.v_proj],
            block.attention.output: [theirs.self_attn.o_proj],
            block.feed_forward.gate_up: [theirs.mlp.gate_proj, theirs.mlp.up_proj],
            block.feed_forward.down: [theirs.mlp.down_proj],
        }
        for ours, layers in pairs.items():
            packed = [layer if isinstance(layer, bitnet_jit.PackedBitLinear) else layer.pack() for layer in layers]
            codes, scale = ours.unpack()
            assert torch.equal(codes, torch.cat([layer.unpack()[0] for layer in packed]))
            wanted = torch.cat([layer.unpack()[1].expand(layer.out_features) for layer in packed])
            torch.testing.assert_close(scale.expand(len(codes)), wanted, rtol=0 if exact else 2e-7, atol=0)


def assert_same_state(a, b, exact):
    one, other = a.state_dict(), b.state_dict()
    assert one.keys() == other.keys()
    assert a.config == b.config
    for name, tensor in one.items():
        assert tensor.dtype == other[name].dtype
        if exact or not tensor.is_floating_point():
            assert torch.equal(tensor, other[name]), name
        torch.testing.assert_close(tensor, other[name], rtol=2e-7, atol=0)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("rope", [*OURS, "yarn"])
def test_a_patched_model_is_saved_over_the_files_that_it_is_mapped_from(tmp_path, format, rope):
    bitnet_jit.save(bitnet_jit.convert(build("llama", rope, attention_bias=True)), tmp_path)
    shard(tmp_path)
    patched = bitnet_jit.patch(read_by_transformers(tmp_path))
    wanted = logits(patched)
    if rope == "yarn" and format not in HUGGING_FACE:
        with pytest.raises(InvalidInput, match="found 'yarn'"):
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
    scaling = RopeScaling(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context=16)
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
            found = logits(read_by_transformers(tmp_path / name))
            assert found.dtype == dtype
            torch.testing.assert_close(found, logits(model), rtol=0, atol=NEAR)


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
    model = bitnet_jit.convert(build("llama", "yarn"))
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
def test_what_nobody_could_read_is_refused_before_anything_is_written(tmp_path, words, format):
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


def test_a_config_that_a_decoder_cannot_say_is_refused(tmp_path):
    settings = TrainSettings(layers=1, hidden_size=16, intermediate_size=16, heads=2)
    model = TrainedDecoder(replace(settings.decoder(), mlp_bias=True))
    with pytest.raises(InvalidInput, match="config.json cannot say mlp_bias=True; a reader takes it for False"):
        bitnet_jit.save(model, tmp_path)
    assert not list(tmp_path.iterdir())
