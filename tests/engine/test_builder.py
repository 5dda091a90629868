"""Options of an engine: each one has an effect, and all that are wrong are named at once."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_checkpoints import write
from tensor_modules import K, Recorded, inputs, packed
from torch import nn

from bitnet_jit.engine import (
    DeviceSelector,
    EngineBuilder,
    EngineConfig,
    InferenceEngine,
    MemorySize,
    OptimizationLevel,
)
from bitnet_jit.engine import engine as engine_module
from bitnet_jit.engine.models.usage import weight_bytes
from bitnet_jit.errors import InvalidInput, ModelNotFound, QueueFull
from bitnet_jit.ops import calls
from bitnet_jit.problem import PAGE

WAIT = 30
PROMPT = "And it came to pass "
builder = InferenceEngine.builder


def captured(engine, name="tiny"):
    """Return the numbers of rows of the decode steps that were captured; None where none can be."""
    steps = engine.model(name).replica._runner._decode
    return None if steps is None else {rows for rows, _ in steps._steps}


def test_batch_size_bounds_texts_and_rows(tiny):
    module, seen = Recorded(), set()
    with builder().batch_size(3).build() as engine:
        engine.add_model("tiny", tiny)
        engine.add_model("layer", module)
        handles = [engine.submit("tiny", PROMPT, 40) for _ in range(7)]
        while any(handle._end is None for handle in handles):
            seen.add(engine.stats()["tiny"].running)
            for handle in handles[:1]:
                handle.result(WAIT)
            handles = handles[1:] or handles
            if len(handles) == 1:
                handles[0].result(WAIT)
        assert max(seen) <= 3
        xs = inputs([(7,), (1,), (), (5,)])
        outputs = engine.infer_batch("layer", xs)
        assert max(module.calls) <= 3
        assert sum(module.calls) == 14
        for x, y in zip(xs, outputs, strict=True):
            assert torch.equal(y, module.inner(x))


def test_memory_pool_size_bounds_pages(tiny):
    with builder().build() as engine:
        default = engine.add_model("tiny", tiny).replica.scheduler.cache
    per_page = default.num_bytes // default.pool.count
    with builder().memory_pool_size(MemorySize(5 * per_page + 1)).build() as engine:
        engine.add_model("tiny", tiny)
        assert engine.stats()["tiny"].pages == 5
        assert engine.memory_usage().pages == 5 * per_page
        with pytest.raises(InvalidInput, match="and the engine has 5"):
            engine.submit("tiny", PROMPT, 5 * PAGE)
        assert len(engine.submit("tiny", PROMPT, 4 * PAGE).result(WAIT).tokens) == 4 * PAGE
    with (
        builder().memory_pool_size(per_page - 1).build() as engine,
        pytest.raises(InvalidInput, match=f"memory_pool_bytes: expected {per_page} at least, for a page of 64 tokens"),
    ):
        engine.add_model("tiny", tiny)
    with builder().memory_pool_size(MemorySize.GB(64)).batch_size(2).build() as engine:
        engine.add_model("tiny", tiny)
        assert engine.stats()["tiny"].pages == 2 * tiny.config.context_length // PAGE


def test_optimization_level_says_what_is_captured_before_and_behind_a_text(tiny):
    states, texts = {}, set()
    for level in OptimizationLevel:
        with InferenceEngine(EngineConfig(optimization_level=level, max_running=2, tuning_seconds=0)) as engine:
            engine.add_model("tiny", tiny)
            before = captured(engine)
            texts.add(tuple(engine.submit("tiny", PROMPT, 30).result(WAIT).tokens))
            states[level.name] = before, captured(engine)
        assert builder().optimization_level(level).validate().optimization_level is level
    assert states == {"NONE": (None, None), "BASIC": (set(), {1}), "AGGRESSIVE": ({1}, {1})}
    assert len(texts) == 1


def test_several_replicas_are_prepared_and_share_the_memory_of_a_pool(tiny):
    page = 64 * tiny.config.num_layers * 2 * tiny.config.num_kv_heads * tiny.config.head_dim * 4
    options = {"optimization_level": OptimizationLevel.AGGRESSIVE, "tuning_seconds": 0, "memory_pool_bytes": 9 * page}
    with InferenceEngine(EngineConfig(max_running=2, **options)) as engine:
        model = engine.load_model(devices=["cpu", "cpu"]).result(WAIT)
        assert [member._runner._decode._steps != {} for member in model.replica.members] == [True, True]
        assert engine.stats()["tiny-bitnet"].pages == 8
        (usage,) = engine.memory_usage().models
        assert (usage.pages, usage.device) == (8 * page, "cpu")
        assert usage.weights == weight_bytes(tiny)  # of both replicas, which share them
        text = engine.submit("tiny-bitnet", PROMPT, 9).result(WAIT)
        assert text.tokens == tiny.generate(list(PROMPT.encode()), 9).tolist()[len(PROMPT) :]


def test_the_aggressive_level_tunes_layers_and_others_do_not():
    layer, problems = packed(K, 11), []
    for level in OptimizationLevel:
        with InferenceEngine(EngineConfig(max_running=2, step_tokens=2, optimization_level=level)) as engine:
            engine.add_model("plain", nn.Linear(2, 2))
            engine.add_model("layer", layer)
            engine.infer("layer", torch.ones(1, K))
            choices = [calls.DISPATCHER.choose(one) for one in calls.DISPATCHER.problems() if one.out_features == 11]
            problems.append([choice.tuned is not None for choice in choices])
    assert not any(problems[0] + problems[1])
    assert problems[2]
    assert all(problems[2])


def test_caching_keeps_beginnings_and_models(tmp_path, tiny):
    folders = [write(tmp_path / name) for name in ("one", "two")]
    for enabled, kept, models in ((True, 64, {"tiny", "one", "two"}), (False, 0, {"tiny", "two"})):
        with builder().enable_caching(enabled).build() as engine:
            engine.add_model("tiny", tiny)
            for _ in range(2):
                done = engine.submit("tiny", 4 * PROMPT, 2).result(WAIT)
            assert done.cached_tokens == kept
            for folder in folders:
                engine.load_model(folder).result(WAIT)
            assert engine.models.keys() == models


def test_limits_of_cached_models(tmp_path):
    folders = [write(tmp_path / name) for name in ("one", "two", "three")]
    with builder().max_cached_models(2).build() as engine:
        for folder in folders:
            weights = engine.load_model(folder).result(WAIT) and engine.memory_usage().weights
        assert engine.models.keys() == {"two", "three"}
    with builder().max_cached_bytes(weights).build() as engine:  # of two models
        for folder in folders:
            engine.load_model(folder).result(WAIT)
        assert engine.models.keys() == {"two", "three"}
        with pytest.raises(ModelNotFound):
            engine.model("one")


def test_max_waiting_refuses_what_is_too_much(tiny):
    with builder().batch_size(1).max_waiting(1).build() as engine:
        replica = engine.add_model("tiny", tiny).replica
        with replica.inbox._changed:  # the worker takes nothing in meanwhile
            engine.submit("tiny", PROMPT, 5)
            with pytest.raises(QueueFull):
                engine.submit("tiny", PROMPT, 5)


def test_device_says_where_models_are_loaded(monkeypatch):
    with builder().device("cpu").build() as engine:
        assert engine.load_model().result(WAIT).module.device == torch.device("cpu")
    monkeypatch.setattr(DeviceSelector, "select", lambda self: torch.device("cuda", 1))  # the fastest of a machine
    monkeypatch.setattr(engine_module, "check_device", torch.device)

    def place(made):
        return str(made.build().device)

    assert place(builder()) == "cuda:1"
    assert place(builder().device("auto").enable_gpu_acceleration()) == "cuda:1"
    assert place(builder().enable_gpu_acceleration(False)) == "cpu"
    assert place(builder().device("auto").enable_gpu_acceleration(False)) == "cpu"
    assert place(builder().edge_deployment()) == "cpu"
    assert place(builder().edge_deployment().enable_gpu_acceleration()) == "cuda:1"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_auto_is_a_gpu():
    with builder().optimization_level(OptimizationLevel.AGGRESSIVE).batch_size(4).build() as engine:
        assert engine.load_model().result(120).module.device.type == "cuda"
        assert captured(engine, "tiny-bitnet") == {1, 2, 4}
    with builder().enable_gpu_acceleration(False).build() as engine:
        assert engine.load_model().result(120).module.device == torch.device("cpu")


PRESETS = ("high_performance", "low_memory", "edge_deployment", "server_deployment")


def test_presets_differ_and_can_be_changed():
    configs = {name: getattr(builder(), name)().validate() for name in PRESETS}
    assert len(set(configs.values())) == 4
    assert configs["high_performance"].optimization_level is OptimizationLevel.AGGRESSIVE
    assert configs["low_memory"].max_running < EngineConfig().max_running
    assert configs["edge_deployment"].device == "cpu"
    assert configs["server_deployment"].max_waiting > EngineConfig().max_waiting
    for name in PRESETS:
        before = getattr(builder().batch_size(5), name)().validate()
        after = getattr(builder(), name)().batch_size(5).validate()
        assert before == after != configs[name]
        assert (after.max_running, after.batch_rows) == (5, 5)
    for engine in (InferenceEngine.balanced(), InferenceEngine.optimized_for_speed()):
        assert isinstance(engine, InferenceEngine)
    assert InferenceEngine.optimized_for_memory().config == EngineConfig.optimized_for_memory()


def test_a_builder_is_not_changed_by_what_is_made_of_it():
    first = builder().batch_size(2)
    first.batch_size(9)
    assert first.validate().max_running == 2
    assert builder().chosen == {}


BAD = {
    "device": ["gpu", None, "cuda:99", 3.5],
    "enable_gpu_acceleration": [1, "yes", None],
    "batch_size": [0, -1, 1.5, "8", True, 2**40, None],
    "max_waiting": [0, None],
    "memory_pool_size": [0, -5, 1.5, "2GB", None, float("nan")],
    "optimization_level": ["aggressive", 2, None],
    "enable_caching": [0, None],
    "max_cached_models": [0, None, 2.5],
    "max_cached_bytes": [0, "1"],
}
GOOD = {"device": "cpu", "batch_size": 4, "max_waiting": 9, "memory_pool_size": 2**20, "max_cached_models": 1}


@given(
    bad=st.lists(st.sampled_from(sorted(BAD)), unique=True, min_size=1).flatmap(
        lambda names: st.fixed_dictionaries({name: st.sampled_from(BAD[name]) for name in names})
    )
)
def test_validate_names_every_bad_option_at_once(bad):
    made = builder()
    for name, value in {**GOOD, **bad}.items():
        made = getattr(made, name)(value)
    with pytest.raises(InvalidInput) as caught:
        made.validate()
    told = [
        words.split(":")[0] for words in str(caught.value).split("; ") if ": expected" in words or "device" in words
    ]
    assert bad.keys() <= set(told), str(caught.value)
    assert not (GOOD.keys() - bad.keys() - {"max_cached_models"}) & set(told), str(caught.value)
    with pytest.raises(InvalidInput):
        made.build()


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (EngineBuilder.enable_gpu_acceleration, "enable_gpu_acceleration: expected False or nothing beside the device"),
        (lambda made: made.enable_caching(False).max_cached_models(3), "max_cached_models: expected 1 where"),
    ],
)
def test_options_that_contradict_one_another_are_refused(made, words):
    with pytest.raises(InvalidInput, match=words):
        made(builder().device("cpu")).validate()


@pytest.mark.parametrize(
    "options",
    [
        {"device": None},
        {"device": "nowhere"},
        {"batch_rows": 0},
        {"memory_pool_bytes": 0},
        {"optimization_level": "basic"},
        {"tuning_seconds": -1},
        {"tuning_seconds": float("nan")},
        {"max_cached_models": 0},
        {"max_cached_bytes": True},
    ],
)
def test_a_config_refuses_what_makes_no_sense(options):
    (name,) = options
    with pytest.raises(InvalidInput, match=f"^{name}: "):
        EngineConfig(**options)


@given(st.floats(0.01, 1000), st.sampled_from([("KB", 10), ("MB", 20), ("GB", 30)]))
def test_sizes_are_bytes(number, unit):
    name, exponent = unit
    assert getattr(MemorySize, name)(number).num_bytes == int(number * 2**exponent)


@pytest.mark.parametrize("number", [0, -1, float("nan"), float("inf"), "2", None, 1e30])
def test_sizes_that_cannot_be_are_refused(number):
    with pytest.raises(InvalidInput, match="expected a size of at least one byte"):
        MemorySize.GB(number)
    with pytest.raises(InvalidInput, match="num_bytes: "):
        MemorySize(-1)
