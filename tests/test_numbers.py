"""Public functions that take numbers take those of NumPy and torch, and refuse bools and sizes beyond all memory."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import bitnet_jit
from bitnet_jit.devices.memory import check_fits
from bitnet_jit.devices.threads import get_num_threads, set_num_threads
from bitnet_jit.errors import InvalidInput
from bitnet_jit.models.kv_cache import KVCache
from bitnet_jit.training.settings import TrainSettings
from bitnet_jit.training.sizes import check_memory

PROMPT = [*b"In the "]


@pytest.fixture(scope="module")
def decoder():
    return bitnet_jit.load()


def packed():
    return nn.Sequential(bitnet_jit.PackedBitLinear(8, 4))


def generate(decoder, name):
    return lambda value: decoder.generate(PROMPT, **{"max_new_tokens": 2, "temperature": 1.0, "seed": 0, name: value})


def stream(decoder, name):
    return lambda value: list(
        decoder.stream(PROMPT, **{"max_new_tokens": 2, "temperature": 1.0, "seed": 0, name: value})
    )


def strength(decoder):
    return lambda value: bitnet_jit.set_quantization_strength(bitnet_jit.BitLinear(8, 4), value)


def convert(decoder):
    layers = nn.Sequential(nn.Linear(8, 4))
    return lambda value: bitnet_jit.convert(layers, use_rms_norm=True, rms_norm_eps=value)


def tune(decoder, **options):
    return bitnet_jit.autotune([(8, 8)], **{"rows": (1,), "device": "cpu", "progress": False, **options})


def grouped(value):
    layer = bitnet_jit.PackedBitLinear(8, 4, bias=False, scale="group", group_size=value)
    assert type(layer.group_size) is int


def settings(name):
    return lambda value: TrainSettings(**{name: value})


SIZES = {"steps": 3, "layers": 2, "batch_size": 2, "hidden_size": 12, "intermediate_size": 5, "kv_heads": 2, "seed": 2}
# what makes a call of a value, and a value that fits
WHOLE = {
    "generate max_new_tokens": (lambda d: generate(d, "max_new_tokens"), 2),
    "generate top_k": (lambda d: generate(d, "top_k"), 3),
    "generate seed": (lambda d: generate(d, "seed"), 3),
    "generate stop": (lambda d: generate(d, "stop"), 3),
    "generate stops": (lambda d: lambda value: generate(d, "stop")([value, "x"]), 3),
    "generate input_ids": (lambda d: lambda value: d.generate([5, value], 1), 3),
    "stream max_new_tokens": (lambda d: stream(d, "max_new_tokens"), 2),
    "stream top_k": (lambda d: stream(d, "top_k"), 3),
    "stream seed": (lambda d: stream(d, "seed"), 3),
    "new_cache batch_size": (lambda d: lambda value: d.new_cache(value), 2),
    "new_cache capacity": (lambda d: lambda value: d.new_cache(1, value), 2),
    "set_num_threads": (lambda d: set_num_threads, 2),
    "add_lora r": (lambda d: lambda value: bitnet_jit.add_lora(packed(), r=value), 2),
    "explain rows": (lambda d: lambda value: bitnet_jit.explain(packed(), rows=value), 1),
    "autotune rows": (lambda d: lambda value: tune(d, rows=[value], budget_seconds=0), 1),
    "BitLinear in_features": (lambda d: lambda value: bitnet_jit.BitLinear(value, 4), 4),
    "BitLinear out_features": (lambda d: lambda value: bitnet_jit.BitLinear(4, value), 4),
    "PackedBitLinear in_features": (lambda d: lambda value: bitnet_jit.PackedBitLinear(value, 4), 4),
    "PackedBitLinear out_features": (lambda d: lambda value: bitnet_jit.PackedBitLinear(4, value), 4),
    "PackedBitLinear group_size": (lambda d: grouped, 4),
    "RMSNorm hidden_size": (lambda d: bitnet_jit.RMSNorm, 4),
    **{f"TrainSettings {name}": (lambda d, name=name: settings(name), value) for name, value in SIZES.items()},
}
REAL = {
    "generate temperature": (lambda d: generate(d, "temperature"), 0.5),
    "generate top_p": (lambda d: generate(d, "top_p"), 0.5),
    "stream temperature": (lambda d: stream(d, "temperature"), 0.5),
    "add_lora alpha": (lambda d: lambda value: bitnet_jit.add_lora(packed(), alpha=value), 0.5),
    "add_lora dropout": (lambda d: lambda value: bitnet_jit.add_lora(packed(), dropout=value), 0.5),
    "convert rms_norm_eps": (convert, 0.5),
    "set_quantization_strength": (strength, 0.5),
    "autotune budget": (lambda d: lambda value: tune(d, budget_seconds=value), 0.0),
    "TrainSettings dropout": (lambda d: settings("dropout"), 0.5),
    "TrainSettings learning_rate": (lambda d: settings("learning_rate"), 0.5),
}

NOT_MEANT = [2**62 + 1, 2**63, 2**80, 10**30, 10**5000, -1, -(10**5000)]


@pytest.fixture(autouse=True)
def as_many_threads_as_before():
    yield
    set_num_threads(None)


@pytest.mark.parametrize("case", WHOLE)
def test_whole_numbers_of_numpy_and_torch_are_taken(decoder, case):
    make, value = WHOLE[case]
    for kind in (int, np.int64, np.uint8, np.array, torch.tensor):
        make(decoder)(kind(value))


@pytest.mark.parametrize("case", REAL)
def test_real_numbers_of_numpy_and_torch_are_taken(decoder, case):
    make, value = REAL[case]
    for kind in (float, np.float32, np.float64, np.array, torch.tensor):
        make(decoder)(kind(value))


@pytest.mark.parametrize("case", [case for case in (*WHOLE, *REAL) if "stop" not in case])
@pytest.mark.parametrize("value", [True, np.bool_(True), torch.tensor(True), "1", [[1]], torch.tensor([1, 2]), 1j])
def test_other_values_than_numbers_are_refused_in_words(decoder, case, value):
    make, _ = (WHOLE | REAL)[case]
    with pytest.raises(InvalidInput, match="expected|at least 1"):
        make(decoder)(value)


@pytest.mark.parametrize("case", WHOLE)
@pytest.mark.parametrize("value", NOT_MEANT, ids=[f"number {index}" for index in range(7)])  # no id holds 5000 digits
def test_numbers_that_cannot_be_meant_are_refused_in_words(decoder, case, value):
    make, _ = WHOLE[case]
    if case.endswith("seed") and value == 2**62 + 1:
        make(decoder)(value)
        return
    with pytest.raises(InvalidInput, match="expected|at least 1|more than there is"):
        make(decoder)(value)


@pytest.mark.parametrize("case", REAL)
@pytest.mark.parametrize("value", [math.nan, -1, -math.inf, -(10**5000)], ids=["nan", "-1", "-inf", "-huge"])
def test_reals_that_cannot_be_meant_are_refused_in_words(decoder, case, value):
    make, _ = REAL[case]
    with pytest.raises(InvalidInput, match="expected"):
        make(decoder)(value)


def test_seeds_of_every_kind_draw_the_same(decoder):
    drawn = [generate(decoder, "seed")(kind(5)).tolist() for kind in (int, np.int32, torch.tensor)]
    assert drawn[0] == drawn[1] == drawn[2]


@pytest.mark.parametrize(
    "stop", [np.array([3, 4]), torch.tensor([3, 4]), range(3, 5), {3, 4}, {3: 0, 4: 0}, iter([3, 4]), (np.int64(3), 4)]
)
def test_stop_ids_in_every_kind_of_collection(decoder, stop):
    assert generate(decoder, "stop")(stop).tolist() == generate(decoder, "stop")([3, 4]).tolist()


@pytest.mark.parametrize(
    "stop", [256, -1, [2**80], b"abc", bytearray(b""), [b"abc"], 1.5, [None], None, [["a"]], object(), True, [np.True_]]
)
def test_other_values_than_stops_are_refused(decoder, stop):
    with pytest.raises(InvalidInput, match="stop: expected token ids"):
        generate(decoder, "stop")(stop)


def test_caches_beyond_all_memory_are_refused_in_words(decoder):
    for batch_size in (10**9, 2**31 - 1):
        with pytest.raises(InvalidInput, match=r"batch_size, capacity: a cache for \d+ prompts of 64 tokens needs"):
            decoder.new_cache(batch_size)
    with pytest.raises(InvalidInput, match="capacity: expected at most 1024, got 1000000000"):
        decoder.new_cache(1, 10**9)
    cache = decoder.new_cache()
    with pytest.raises(InvalidInput, match="a cache for 1 prompts of"):
        cache.reserve(2**50)
    assert cache.capacity == 64


def test_sizes_that_torch_cannot_allocate_are_refused_in_words(decoder, monkeypatch):
    from bitnet_jit.models import paged_store

    def refuse(*arguments, **options):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(paged_store.torch, "empty", refuse)
    with pytest.raises(
        InvalidInput, match=r"a cache for 1 prompts of 64 tokens needs [0-9.]+ .*, which cannot be allocated"
    ):
        KVCache(decoder.config, 1, 1, torch.float32, torch.device("cpu"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"layers": 2**16, "hidden_size": 2**18, "heads": 2}, "layers=65536, hidden_size=262144,.* memory"),
        ({"context_length": 2**31 - 1, "heads": 1, "hidden_size": 2**18}, "context_length=2147483647,.* memory"),
        ({"batch_size": 2**31 - 1}, "batch_size=2147483647,.* memory"),
    ],
)
def test_trainings_beyond_all_memory_are_refused_in_words(changes, words):
    with pytest.raises(InvalidInput, match=words):
        check_memory(TrainSettings(**changes), torch.device("cpu"))


def test_usual_trainings_fit():
    check_memory(TrainSettings(), torch.device("cpu"))
    check_fits("a byte", 1)


def test_rows_and_shapes_beyond_all_memory_are_refused_in_words():
    with pytest.raises(InvalidInput, match=r"rows, model_or_shapes: .* [KMGTPE]iB, more than there is"):
        bitnet_jit.autotune([(64, 64)], rows=(2**31 - 1,), device="cpu", progress=False)
    with pytest.raises(InvalidInput, match=r"rows, model_or_shapes: .* [KMGTPE]iB, more than there is"):
        bitnet_jit.autotune([(2**31 - 1, 2**18)], rows=(1,), device="cpu", progress=False)
    with pytest.raises(InvalidInput, match=r"rows, model_or_shapes: .* [KMGTPE]iB, more than there is"):
        bitnet_jit.explain(packed(), rows=2**31 - 1)


def test_threads_that_no_machine_has_are_refused(monkeypatch):
    from bitnet_jit.settings import read_settings

    before = get_num_threads()
    with pytest.raises(InvalidInput, match="number: expected at most 4096, got 5000"):
        set_num_threads(5000)
    assert get_num_threads() == before
    for value in ("5000", "9" * 5000):
        with pytest.raises(InvalidInput, match="BITNET_JIT_NUM_THREADS: expected at most 4096"):
            read_settings({"BITNET_JIT_NUM_THREADS": value})
