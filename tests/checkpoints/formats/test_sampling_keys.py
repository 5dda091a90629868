"""How a model's files would have tokens chosen, whatever stands in them."""

import json
import math

import pytest
from gguf_models import as_gguf
from hypothesis import given
from hypothesis import strategies as st

import bitnet_jit
from bitnet_jit.checkpoints.formats.sampling_keys import defaults_of_keys, read_defaults
from bitnet_jit.errors import CheckpointError
from bitnet_jit.generation.defaults import Defaults
from bitnet_jit.generation.sampling import Sampling

ODD = (
    st.none()
    | st.booleans()
    | st.integers(-2, 3)
    | st.integers(2**31 - 1, 2**70)
    | st.floats()
    | st.sampled_from(["0.5", [], {}])
)
NAMES = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")


def read(folder, **values):
    """Return the defaults of a file with those values."""
    file = folder / "generation_config.json"
    file.write_text(json.dumps(values))
    return read_defaults(file)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, {}),
        ({"eos_token_id": 2, "temperature": None, "top_k": None}, {}),
        ({"do_sample": True}, {"temperature": 1.0}),
        ({"do_sample": True, "temperature": 0.6, "top_p": 0.95}, {"temperature": 0.6, "top_p": 0.95}),
        ({"temperature": 0.6, "top_k": 20}, {"temperature": 0.6, "top_k": 20}),
        ({"top_p": 0.9}, {"temperature": 1.0, "top_p": 0.9}),
        ({"do_sample": False, "temperature": 0.6, "top_p": 0.9}, {"temperature": 0.0}),
        ({"do_sample": False, "repetition_penalty": 1.1}, {"temperature": 0.0, "repetition_penalty": 1.1}),
        ({"repetition_penalty": 1.05}, {"repetition_penalty": 1.05}),
        ({"do_sample": True, "temperature": 0, "top_k": 0, "top_p": 1, "min_p": 0}, {"temperature": 0.0}),
        ({"temperature": 1, "top_k": -1, "min_p": 0.05}, {"temperature": 1.0, "min_p": 0.05}),
    ],
)
def test_generation_config_json(tmp_path, values, expected):
    assert read(tmp_path, **values) == Defaults("generation_config.json", **expected)


def test_no_file_says_nothing(tmp_path):
    assert read_defaults(tmp_path / "generation_config.json") == Defaults()
    assert Defaults().sampling() == Sampling()


@given(st.dictionaries(st.sampled_from((*NAMES, "do_sample")), ODD))
def test_a_file_gives_options_or_is_refused_by_the_name_of_a_field(tmp_path_factory, values):
    folder = tmp_path_factory.getbasetemp()
    try:
        defaults = read(folder, **values)
    except CheckpointError as error:
        refusal = str(error)
    else:
        check_options(defaults, values)
        return
    assert any(f"generation_config.json: {name}: expected " in refusal for name in values)


def check_options(defaults, values):
    """Check the options that a file gives."""
    options = defaults.sampling()
    assert options.temperature == 0 or options.temperature == values.get("temperature") or options.temperature == 1
    assert "nan" not in defaults.told(options)


@given(st.dictionaries(st.sampled_from(("temp", "top_k", "top_p", "min_p", "penalty_repeat")), ODD))
def test_keys_of_gguf_of_another_type_or_range_say_nothing(values):
    defaults = defaults_of_keys({f"general.sampling.{name}": value for name, value in values.items()})
    defaults.sampling()
    kept = {"temp": defaults.temperature, "penalty_repeat": defaults.repetition_penalty}
    kept |= {name: getattr(defaults, name) for name in ("top_k", "top_p", "min_p")}
    for name, value in kept.items():
        assert value is None or value == values[name]
    temperature = values.get("temp")
    if type(temperature) in (int, float) and math.isfinite(temperature) and temperature >= 0:
        assert defaults.temperature == temperature


def test_keys_of_gguf():
    keys = {"general.sampling.temp": 0.5, "general.sampling.top_k": 20, "general.sampling.penalty_repeat": 1.5}
    defaults = defaults_of_keys({**keys, "general.sampling.top_p": "0.9", "general.name": "x"})
    assert defaults == Defaults("general.sampling", temperature=0.5, top_k=20, repetition_penalty=1.5)
    assert defaults.told(defaults.sampling()) == "temperature 0.5, top_k 20, repetition_penalty 1.5 (general.sampling)"
    assert defaults.told(defaults.sampling(temperature=0)) == "repetition_penalty 1.5 (general.sampling)"
    assert defaults.told(defaults.sampling(1.0, 5, repetition_penalty=1.0)) == ""


@given(
    *[st.none() | st.sampled_from(values) for values in ([0.0, 0.5], [1, 9], [0.5, 1.0], [7], [0.0, 0.1], [1.0, 2.0])]
)
def test_what_a_request_says_wins(temperature, top_k, top_p, seed, min_p, penalty):
    files = Defaults("file", 0.7, 3, 0.8, 0.2, 1.3)
    options = files.sampling(temperature, top_k, top_p, seed, min_p=min_p, repetition_penalty=penalty)
    asked = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p, "repetition_penalty": penalty}
    for name, value in asked.items():
        assert getattr(options, name) == (getattr(files, name) if value is None else value)
    assert options.seed == seed


def test_a_gguf_file_says_how_its_tokens_are_chosen(tiny, tmp_path):
    keys = {"general.sampling.temp": 0.5, "general.sampling.top_k": 20}
    decoder = bitnet_jit.load(as_gguf(tiny, tmp_path / "a.gguf", "bitnet-b1.58", **keys))
    assert decoder.defaults == Defaults("general.sampling", temperature=0.5, top_k=20)
