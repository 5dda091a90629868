"""BitNet embedding models: norms inside layers, Gemma's parts and pooling against transformers' models in float32."""

from collections import Counter
from copy import deepcopy

import pytest
import torch
from embedding_models import as_folder, as_gguf, layers_of, random_model, write_pooling
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import bitnet_jit
from bitnet_jit.engine import InferenceEngine
from bitnet_jit.errors import CheckpointError, GenerationError, InvalidInput
from bitnet_jit.runner.runner import Runner
from bitnet_jit.runner.step import Chunk
from bitnet_jit.tuning.problems import problems_of_model

MODELS = {
    "qwen3": {"kind": "qwen3"},
    "qwen3, odd sizes": {"kind": "qwen3", "hidden_size": 68, "intermediate_size": 100, "num_key_value_heads": 1},
    "gemma3": {"kind": "gemma3"},
    "gemma3, one head of keys": {"kind": "gemma3", "num_key_value_heads": 1, "query_pre_attn_scalar": 32},
    "gemma3, all layers local": {"kind": "gemma3", "layer_types": ["sliding_attention"] * 3},
}
WIDE = {"hidden_size": 128, "intermediate_size": 256}  # for I2_S
PATTERN = "gemma3.attention.sliding_window_pattern"
MARGIN = 4e-5  # of what becomes a code to a half-integer: some roundings of float32 at 127
TEXTS = ["In the beginning ", "x", "And it came to pass in those days, " * 7, "a" * 64, "b" * 65]


@pytest.fixture(scope="module", params=MODELS)
def pair(request, tmp_path_factory):
    """Save a model, and load it as our decoder."""
    model = random_model(**MODELS[request.param])
    return bitnet_jit.load(as_folder(model, tmp_path_factory.mktemp("embed") / "model", "mean_tokens")), model


@pytest.fixture(scope="module", params=["qwen3", "gemma3"])
def decoder(request, tmp_path_factory):
    """Load one model of each kind."""
    model = random_model(request.param)
    return bitnet_jit.load(as_folder(model, tmp_path_factory.mktemp("embed") / "model"))


def prompt(tokens: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (2, tokens), generator=torch.Generator().manual_seed(seed))


def layer_named(decoder, name):
    """Return our layer of a name of transformers'."""
    _, index, part, projection = name.split(".")
    block = decoder.blocks[int(index)]
    names = {"o_proj": "output"}
    return getattr(
        block.attention if part == "self_attn" else block.feed_forward, names.get(projection, projection[:-5])
    )


def hidden_of(model, ids):
    """Return the hidden states of a model (B, T, hidden), and whether no code of it lay where rounding decides."""
    layers = layers_of(model).values()
    for layer in layers:
        layer.nearest = 1.0
    with torch.no_grad():
        hidden = model(ids).last_hidden_state
    return hidden, min(layer.nearest for layer in layers) > MARGIN


def pooled(hidden, pooling):
    states = {"mean": hidden.mean(1), "cls": hidden[:, 0], "last": hidden[:, -1]}[pooling]
    return states / states.norm(dim=1, keepdim=True)


def assert_near(actual, expected, certain, tolerance):
    """Compare as shares of the deviation; a code that is one off moves some numbers by a hundredth."""
    difference = (actual.view(expected.shape) - expected).abs() / expected.std(correction=0)
    assert difference.max() < (tolerance if certain else 0.1)
    assert certain or difference.mean() < 5e-3


def test_every_layer_gives_the_output_of_its_model(pair):
    decoder, model = pair
    seen = {}
    for name, layer in layers_of(model).items():
        layer.register_forward_hook(lambda _, x, y, name=name: seen.update({name: (x[0], y)}))
    hidden_of(model, prompt(33))
    assert len(seen) == 7 * decoder.config.num_layers
    for name, (x, expected) in seen.items():
        y = layer_named(decoder, name)(x)
        differs = (y - expected).abs() > 1e-5 * expected.abs().max()
        assert differs.float().mean() < 0.01, name  # rows with a code that lay at a half-integer


@pytest.mark.parametrize("tokens", [1, 3, 131])
def test_blocks_give_the_states_of_their_model(pair, tokens):
    decoder, model = pair
    ours, theirs = [], []
    hooks = [block.register_forward_hook(lambda _, x, y: ours.append(y[0] + y[1])) for block in decoder.blocks]
    hooks += [layer.register_forward_hook(lambda _, x, y: theirs.append(y)) for layer in model.layers]
    expected, certain = hidden_of(model, prompt(tokens))
    hidden = decoder.hidden(prompt(tokens), decoder.new_cache(2, tokens))
    for hook in hooks:
        hook.remove()
    for actual, wanted in zip([*ours, pooled(hidden, "last")], [*theirs, pooled(expected, "last")], strict=True):
        assert_near(actual, wanted, certain, 1e-5)


@pytest.mark.parametrize("pooling", [None, "mean", "cls", "last"])
def test_vectors_are_those_of_the_model(pair, pooling):
    decoder, model = pair
    vectors = decoder.encode([list(text.encode()) for text in TEXTS], pooling)
    for text, vector in zip(TEXTS, vectors, strict=True):
        hidden, certain = hidden_of(model, torch.tensor([list(text.encode())]))
        expected = pooled(hidden, pooling or "mean")[0]
        assert (vector - expected).abs().max() < (1e-5 if certain else 5e-3)
        assert vector @ expected > 0.9999
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(TEXTS)))


@pytest.mark.parametrize("kind", ["qwen3", "gemma3"])
def test_a_gguf_file_gives_the_same_model(tmp_path, kind):
    model = random_model(kind, **WIDE | ({"query_pre_attn_scalar": 32} if kind == "gemma3" else {}))
    decoder = bitnet_jit.load(as_folder(model, tmp_path / "model", "mean_tokens"))
    read = bitnet_jit.load(as_gguf(model, tmp_path / "model.gguf"))
    assert (read.config, read.pooling) == (decoder.config, decoder.pooling)
    assert torch.equal(read.encode(TEXTS), decoder.encode([list(text.encode()) for text in TEXTS]))
    assert read.blocks[0].attention.q.activation == "a8"


def test_flags_and_intervals_say_which_layers_are_local(tmp_path):
    path, model = tmp_path / "model.gguf", random_model("gemma3", **WIDE)
    for pattern, is_local in (([True, False, True], (True, False, True)), (4, (True,) * 3), (1, None)):
        local = bitnet_jit.load(as_gguf(model, path, **{PATTERN: pattern})).config.local
        assert (None if local is None else local.is_local) == is_local
    for pattern, words in (([True], "expected 3 flags"), (0, "expected a whole number")):
        with pytest.raises(CheckpointError, match=words):
            bitnet_jit.load(as_gguf(model, path, **{PATTERN: pattern}))


def test_an_end_token_is_added_as_the_file_says(tmp_path):
    ends = {"tokenizer.ggml.eos_token_id": 7, "tokenizer.ggml.add_eos_token": True}
    decoder = bitnet_jit.load(as_gguf(random_model(**WIDE), tmp_path / "model.gguf", **ends))
    assert torch.equal(decoder.encode(["text"], "last"), decoder.encode([[*b"text", 7]], "last"))


@settings(max_examples=10)
@given(cuts=st.lists(st.integers(1, 40), min_size=1, max_size=8), seed=st.integers(0, 9))
def test_any_cut_gives_the_same_bits_beside_others(decoder, cuts, seed):
    ids = prompt(sum(cuts), seed)[0].tolist()
    runner = Runner(decoder, 32)
    alone, cut, other = (runner.cache.new_sequence() for _ in range(3))
    whole = runner.hidden([Chunk(alone, ids, len(ids))])
    start = 0
    for count in cuts:
        chunks = [Chunk(other, [7] * (1 + count % 3)), Chunk(cut, ids[start : start + count], count)]
        parts = runner.hidden(chunks)[1:]
        assert torch.equal(parts, whole[start : start + count])
        if count % 2:  # a captured step gives the logits of the same states
            runner.cache.truncate(cut, start)
            logits = runner.repeat([chunks[1]])
            assert torch.equal(logits, decoder.logits(parts))
        start += count


@settings(max_examples=8)
@given(
    lengths=st.lists(st.sampled_from([1, 3, 17, 64, 65, 400, 511]), min_size=1, max_size=6),
    pooling=st.sampled_from("mcl"),
)
def test_a_vector_does_not_depend_on_the_texts_beside_it(decoder, lengths, pooling):
    chosen = {"m": "mean", "c": "cls", "l": "last"}[pooling]
    rows = [prompt(length, number)[0] for number, length in enumerate(lengths)]
    together = decoder.encode(rows, chosen)
    for row, vector in zip(rows, together, strict=True):
        assert torch.equal(decoder.encode([row.tolist()], chosen)[0], vector)


def test_a_text_of_several_steps_is_that_of_one(tmp_path):
    decoder = bitnet_jit.load(as_folder(random_model(), tmp_path / "model"))
    ids = prompt(1500)[0]
    hidden = decoder.hidden(ids[None], decoder.new_cache(1, 1500)).double()
    torch.testing.assert_close(decoder.encode([ids], "mean"), pooled(hidden, "mean").float(), rtol=0, atol=1e-6)


def test_bfloat16_and_a_cache_of_int8_are_near(decoder, tmp_path):
    rows = [prompt(tokens)[0] for tokens in (5, 90)]
    expected = decoder.encode(rows, "mean")
    half = deepcopy(decoder).bfloat16()
    assert half.blocks[0].attention.q.rms_norm.weight.dtype == torch.bfloat16
    assert ((half.encode(rows, "mean") * expected).sum(1) > 0.995).all()
    decoder = deepcopy(decoder)
    decoder.cache_dtype = torch.int8
    assert ((decoder.encode(rows, "mean") * expected).sum(1) > 0.995).all()


def test_local_layers_end_the_context_at_their_window(tmp_path, caplog):
    model = random_model("gemma3", sliding_window=40)
    decoder = bitnet_jit.load(as_folder(model, tmp_path / "model", "lasttoken"))
    assert "some layers see the last 40 tokens alone: the context is 40 tokens instead of 2048" in caplog.text
    hidden, _ = hidden_of(model, prompt(40))
    vectors = decoder.encode(prompt(40).tolist())
    assert ((vectors * pooled(hidden, "last")).sum(1) > 0.9999).all()
    with pytest.raises(InvalidInput, match="41 tokens, but the model's context has room for 40"):
        decoder.encode(prompt(41).tolist())


def test_rotary_frequencies_of_global_layers_matter(tmp_path):
    """So that the test of Gemma could fail: other bases give other vectors."""
    model = random_model("gemma3")
    decoder = bitnet_jit.load(as_folder(model, tmp_path / "model"))
    decoder.rope._rotary = decoder.rope.rotary(512, torch.device("cpu")).flip(0)
    expected, _ = hidden_of(model, prompt(60))
    assert ((decoder.encode(prompt(60).tolist(), "last") * pooled(expected, "last")).sum(1) < 0.999).all()


def test_a_body_without_a_head_is_read(tmp_path):
    model = random_model()
    whole = bitnet_jit.load(as_folder(model, tmp_path / "whole"))
    bare = bitnet_jit.load(as_folder(model, tmp_path / "bare", body="", tie_word_embeddings=False))
    assert bare.config == whole.config
    assert torch.equal(bare.encode(["text"], "last"), whole.encode(["text"], "last"))


def test_a_model_whose_files_do_not_say_how_to_pool_asks(decoder):
    with pytest.raises(InvalidInput, match="pooling: this model's files do not say how it pools; pass one of mean"):
        decoder.encode(["text"])
    for pooling in ("max", "", 3, b"mean"):
        with pytest.raises(InvalidInput, match="pooling: expected one of mean, cls, last, got"):
            decoder.encode(["text"], pooling)
    for texts in ("text", [], None, torch.zeros(3, dtype=torch.int64)):
        with pytest.raises(InvalidInput, match="prompts: expected a list of texts"):
            decoder.encode(texts, "mean")
    for text in ("", [], [256], [-1], [1.5]):
        with pytest.raises(InvalidInput):
            decoder.encode(["good", text], "mean")


def test_damaged_weights_are_told(tmp_path):
    decoder = bitnet_jit.load(as_folder(random_model(), tmp_path / "model"))
    decoder.norm.weight.data[3] = torch.nan
    with pytest.raises(GenerationError, match="prompt 0: the model computed hidden states that are NaN"):
        decoder.encode(["text"], "mean")
    assert decoder.idle_runner.take(decoder, 1, 1).cache.pool.num_free


POOLINGS = {"mean_tokens": "mean", "cls_token": "cls", "lasttoken": "last"}


@pytest.mark.parametrize("said", POOLINGS)
def test_pooling_is_that_of_the_folder(tmp_path, said):
    decoder = bitnet_jit.load(as_folder(random_model(), tmp_path / "model", said))
    assert decoder.pooling == POOLINGS[said]
    assert torch.equal(decoder.encode(["text"]), decoder.encode(["text"], POOLINGS[said]))


@pytest.mark.parametrize(("number", "pooling"), [(0, None), (1, "mean"), (2, "cls"), (3, "last"), (4, None)])
def test_pooling_is_that_of_the_gguf_file(tmp_path, number, pooling):
    path = as_gguf(random_model(**WIDE), tmp_path / "model.gguf", **{"qwen3.pooling_type": number})
    assert bitnet_jit.load(path).pooling == pooling


WRONG = {
    "max alone": ({"pooling_mode_max_tokens": True}, (), "expected one of pooling_mode_mean_tokens"),
    "two": ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, (), "expected one of"),
    "none": ({"pooling_mode_mean_tokens": False}, (), "expected one of"),
    "no flag": ({"pooling_mode_mean_tokens": "yes"}, (), "pooling_mode_mean_tokens: expected true or false"),
    "a layer behind": ({"pooling_mode_mean_tokens": True}, ("Dense",), "expected modules Transformer, Pooling"),
}


@pytest.mark.parametrize("case", WRONG)
def test_another_pooling_is_refused(tmp_path, case):
    values, more, words = WRONG[case]
    folder = as_folder(random_model(), tmp_path / "model")
    write_pooling(folder, values, *more)
    with pytest.raises(CheckpointError, match=words):
        bitnet_jit.load(folder)


CONFIGS = {
    "use_bidirectional_attention": True,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "hidden_activation": "gelu",
    "layer_types": ["full_attention", "chunked_attention", "full_attention"],
    "query_pre_attn_scalar": 0,
    "sliding_window": 0,
}


@pytest.mark.parametrize("field", CONFIGS)
def test_a_gemma_that_we_cannot_run_is_refused(tmp_path, field):
    folder = as_folder(random_model("gemma3"), tmp_path / "model", **{field: CONFIGS[field]})
    with pytest.raises(CheckpointError, match=f"{field}: expected"):
        bitnet_jit.load(folder)


def test_a_pattern_and_a_local_base_say_the_same_as_lists(tmp_path):
    model = random_model("gemma3", layer_types=["sliding_attention", "sliding_attention", "full_attention"])
    folder = as_folder(model, tmp_path / "lists")
    old = {"rope_parameters": None, "layer_types": None, "rope_theta": 5000.0, "rope_local_base_freq": 100.0}
    other = as_folder(model, tmp_path / "old", **old, sliding_window_pattern=3)
    assert bitnet_jit.load(folder).config == bitnet_jit.load(other).config


@pytest.mark.parametrize("kind", ["qwen3", "gemma3"])
def test_a_missing_norm_is_named(tmp_path, kind):
    model = random_model(kind)
    folder = as_folder(model, tmp_path / "model")
    without(folder, "layers.1.mlp.up_proj.norm.weight")
    with pytest.raises(CheckpointError, match=r"layers.1.mlp.up_proj.norm.weight: expected .*, found no such tensor"):
        bitnet_jit.load(folder)
    without(folder, "_proj.norm.weight")
    if kind == "gemma3":
        with pytest.raises(CheckpointError, match="expected a norm inside each layer of Gemma 3"):
            bitnet_jit.load(folder)
    else:
        assert not bitnet_jit.load(folder).config.inner_norms


def without(folder, end):
    """Take the tensors out of a folder whose names end so."""
    path = folder / "model.safetensors"
    save_file({name: tensor for name, tensor in load_file(path).items() if not name.endswith(end)}, path)


def test_the_engine_pools_as_the_model_says(tmp_path):
    decoder = bitnet_jit.load(as_folder(random_model(), tmp_path / "model", "lasttoken"))
    with InferenceEngine() as engine:
        engine.add_model("embed", decoder)
        assert torch.equal(engine.embed("embed", TEXTS), decoder.encode(TEXTS))


def test_problems_of_a_step_are_those_that_it_poses(decoder):
    ops = Counter(problem.op for problem in problems_of_model(decoder, (1,)).elements())
    assert ops["rms_norm_quantize"] == ops["quantized_linear"] == 7 * decoder.config.num_layers
    assert ops[f"{decoder.config.activation}_mul_norm"] == decoder.config.num_layers
