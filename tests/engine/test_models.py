"""Models of an engine: loaded once, kept while there is room, let go when idle, loaded again."""

import asyncio
import gc
import hashlib
import json
import shutil
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from small_checkpoints import write
from torch import nn

import bitnet_jit
from bitnet_jit.checkpoints.checksum import checksum_of
from bitnet_jit.checkpoints.embedded import embedded_model
from bitnet_jit.engine import EngineConfig, InferenceEngine
from bitnet_jit.engine.models import source as source_module
from bitnet_jit.engine.models.held import Held
from bitnet_jit.engine.models.model import Model
from bitnet_jit.engine.models.source import Source
from bitnet_jit.engine.models.store import ModelStore
from bitnet_jit.engine.pending import Pending
from bitnet_jit.errors import CheckpointError, EngineClosed, InvalidInput, ModelNotFound, OutOfMemory, RequestCancelled

WAIT = 30
IDS = torch.tensor([[1, 2, 3]])


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Write three small checkpoints, one of them in two files."""
    root = tmp_path_factory.mktemp("models")
    return [write(root / name, num_shards=shards) for name, shards in (("one", 1), ("two", 2), ("three", 1))]


@pytest.fixture
def loads(monkeypatch):
    """Return the names of the folders that are read, as they are read."""
    names, load = [], Source.load

    def counted(self, path):
        names.append(path.name)
        return load(self, path)

    monkeypatch.setattr(Source, "load", counted)
    return names


def load(engine, path, **options):
    """Load a model, waiting for it."""
    return engine.load_model(path, **options).result(WAIT)


def test_a_model_that_is_held_is_not_read_again(folders, loads):
    with InferenceEngine() as engine:
        one = load(engine, folders[0])
        assert load(engine, str(folders[0])) is one
        assert load(engine, folders[0].parent / "." / "one") is one
        assert load(engine, folders[0], model_id="one") is one
        other = load(engine, folders[0], model_id="other", head="float32")
        assert other is not one
        assert loads == ["one", "one"]
        stats = engine.cache_stats()
        assert (stats.hits, stats.misses, stats.evictions, stats.models, stats.pinned) == (3, 2, 0, 2, 0)
        assert stats.bytes == sum(model.weights for model in engine.memory_usage().models)


def test_the_model_that_was_not_used_for_longest_makes_room_and_can_be_loaded_again(folders, loads):
    with InferenceEngine(EngineConfig(max_cached_models=2)) as engine:
        expected = engine.infer(load(engine, folders[0]).model_id, IDS)
        load(engine, folders[1])
        engine.infer("one", IDS)
        load(engine, folders[2])
        assert engine.models.keys() == {"one", "three"}
        with pytest.raises(ModelNotFound, match="'two' was let go, for others or by its user; load it again"):
            engine.infer("two", IDS)
        load(engine, folders[1])
        assert engine.models.keys() == {"three", "two"}
        assert torch.equal(engine.infer(load(engine, folders[0]).model_id, IDS), expected)
        assert loads == ["one", "two", "three", "two", "one"]
        assert engine.cache_stats().evictions == 3
        assert (
            engine.submit("one", [1, 2, 3], 4).result(WAIT).tokens
            == engine.models["one"].module.generate([1, 2, 3], 4).tolist()[3:]
        )


def test_bytes_bound_what_is_kept(folders):
    with InferenceEngine() as engine:
        sizes = [engine.memory_usage().weights for path in folders if load(engine, path)]
    one = sizes[0]
    assert one == pytest.approx((folders[0] / "model.safetensors").stat().st_size, rel=0.5)
    with InferenceEngine(EngineConfig(max_cached_models=None, max_cached_bytes=int(2.5 * one))) as engine:
        for path in folders:
            load(engine, path)
            assert engine.cache_stats().bytes <= 2.5 * one
        assert engine.models.keys() == {"two", "three"}
    with InferenceEngine(EngineConfig(max_cached_bytes=one // 2)) as engine:
        with pytest.raises(OutOfMemory, match=rf"max_cached_bytes \({one // 2}\) allows"):
            load(engine, folders[0])
        assert not engine.models
        assert [thread for thread in threading.enumerate() if thread.name == "bitnet-jit one"] == []


def test_the_memory_of_a_model_that_was_let_go_is_free(folders):
    with InferenceEngine(EngineConfig(max_cached_models=1)) as engine:
        module = weakref.ref(load(engine, folders[0]).module)
        engine.submit("one", [1, 2, 3], 4).result(WAIT)
        assert module() is not None
        load(engine, folders[1])
        gc.collect()
        assert module() is None


def test_a_model_in_use_stays(folders):
    with InferenceEngine(EngineConfig(max_cached_models=1)) as engine:
        load(engine, folders[0])
        handle = engine.submit("one", [1, 2, 3], 60)
        engine.model("one").replica.inbox._changed.acquire()  # its worker waits behind its step
        try:
            with pytest.raises(OutOfMemory, match="none that is idle can go; wait until"):
                load(engine, folders[1])
        finally:
            engine.model("one").replica.inbox._changed.release()
        assert len(handle.result(WAIT).tokens) <= 60
        load(engine, folders[1])
        assert engine.models.keys() == {"two"}


def test_a_call_that_runs_keeps_its_model(folders):
    class Slow(nn.Module):
        def forward(self, x):
            begun.set()
            assert may_end.wait(WAIT)
            return x

    begun, may_end = threading.Event(), threading.Event()
    with InferenceEngine(EngineConfig(max_cached_models=1)) as engine:
        engine.add_model("slow", Slow(), pinned=False)
        thread = threading.Thread(target=engine.infer, args=("slow", torch.ones(1)))
        thread.start()
        assert begun.wait(WAIT)
        assert engine.clear_cache() == 0
        with pytest.raises(OutOfMemory):
            load(engine, folders[0])
        may_end.set()
        thread.join(WAIT)
        load(engine, folders[0])
        assert engine.models.keys() == {"one"}


@pytest.mark.parametrize("ending", ["refused", "cancelled", "failed"])
def test_a_request_that_ends_in_any_way_is_no_use_any_more(folders, ending, monkeypatch):
    with InferenceEngine(EngineConfig(max_cached_models=1)) as engine:
        replica = load(engine, folders[0]).replica
        if ending == "refused":
            with pytest.raises(InvalidInput):
                engine.submit("one", [])
        elif ending == "cancelled":
            handle = engine.submit("one", [1], 60)
            handle.cancel()
            with pytest.raises(RequestCancelled):
                handle.result(WAIT)
        else:
            monkeypatch.setattr(replica._runner, "step", lambda chunks: 1 / 0)
            with pytest.raises(bitnet_jit.BitNetError):
                engine.submit("one", [1], 60).result(WAIT)
        load(engine, folders[1])
        assert engine.models.keys() == {"two"}


def test_pinned_models_stay_and_count_for_no_limit(folders):
    with InferenceEngine(EngineConfig(max_cached_models=1)) as engine:
        engine.add_model("mine", nn.Linear(2, 2))
        load(engine, folders[0], pinned=True)
        for path in (*folders[1:], folders[1]):
            load(engine, path)
        assert engine.models.keys() == {"mine", "one", "two"}
        assert engine.cache_stats().pinned == 2
        load(engine, folders[1], pinned=True)  # pins the one that is there
        load(engine, folders[2])
        assert engine.models.keys() == {"mine", "one", "two", "three"}
        assert engine.clear_cache() == 1
        engine.remove_model("mine")
        assert engine.models.keys() == {"one", "two"}
        with pytest.raises(ModelNotFound):
            engine.remove_model("mine")


def test_two_who_ask_at_a_time_get_one_model(folders, loads, monkeypatch):
    counted = Source.load

    def slow(self, path):
        time.sleep(0.1)
        return counted(self, path)

    monkeypatch.setattr(Source, "load", slow)
    with InferenceEngine() as engine:

        async def ask():
            return await asyncio.gather(*(engine.load_model(folders[0]) for _ in range(4)))

        pending = [engine.load_model(folders[0]) for _ in range(3)]
        models = [*asyncio.run(ask()), *(one.result(WAIT) for one in pending)]
        assert len(set(map(id, models))) == 1
        assert loads == ["one"]
        assert (engine.cache_stats().hits, engine.cache_stats().misses) == (6, 1)


def test_a_load_that_fails_fails_for_all_who_wait_and_may_be_tried_again(folders, tmp_path, monkeypatch):
    path, load_files = tmp_path / "model", Source.load
    shutil.copytree(folders[0], path)
    refused = threading.Event()

    def refuse(self, path):
        time.sleep(0.1)
        if refused.is_set():
            return load_files(self, path)
        refused.set()
        raise CheckpointError("damaged")

    monkeypatch.setattr(Source, "load", refuse)
    with InferenceEngine(EngineConfig(max_cached_models=1)) as engine:
        for pending in [engine.load_model(path) for _ in range(3)]:
            with pytest.raises(CheckpointError, match="damaged"):
                pending.result(WAIT)
        assert not engine.models
        assert load(engine, path).model_id == "model"


def test_where_memory_is_short_idle_models_are_let_go(folders, monkeypatch):
    load_files = Source.load

    def short(self, path):
        if self.name == "three" or (self.name == "two" and "one" in engine.models):
            raise torch.OutOfMemoryError("CUDA out of memory (injected)")
        return load_files(self, path)

    monkeypatch.setattr(Source, "load", short)
    with InferenceEngine() as engine:
        load(engine, folders[0])
        load(engine, folders[1])
        assert engine.models.keys() == {"two"}
        with pytest.raises(OutOfMemory, match=r"does not suffice for the model three \(CUDA out of memory"):
            load(engine, folders[2])
        assert load(engine, folders[0]).model_id == "one"


def test_a_hub_id_is_looked_up_once(folders, monkeypatch):
    asked = []
    monkeypatch.setattr(source_module, "find_model", lambda model: asked.append(model) or folders[0])
    with InferenceEngine() as engine:
        model = load(engine, "owner/some-model")
        assert load(engine, "owner/some-model") is model
        assert load(engine, "owner/some-model", checksum=checksum_of(folders[0])) is model
        assert (model.model_id, asked) == ("some-model", ["owner/some-model"] * 2)  # once more for its files


def test_threads_load_use_and_let_go_at_a_time(folders):
    """Whatever they meet is one of two errors, and nothing is left in use."""
    seen, threads = [], threading.active_count()

    def work(number):
        try:
            for step in range(12):
                path = folders[(number + step) % 3]
                try:
                    if step % 4 == 3:
                        engine.clear_cache()
                    elif number % 2:
                        engine.quick_infer(path, IDS)
                    else:
                        name = load(engine, path).model_id
                        seen.append(len(engine.submit(name, [1, 2, 3], 3).result(WAIT).tokens))
                except (ModelNotFound, OutOfMemory):
                    seen.append(None)
        except BaseException as error:
            seen.append(error)

    with InferenceEngine(EngineConfig(max_cached_models=2)) as engine:
        workers = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(WAIT)
        assert {type(one) for one in seen} <= {int, type(None)}, seen
        assert any(seen)
        assert len(engine.models) <= 2
        assert all(held.uses == 0 for held in engine._store.held.values())
        assert engine.clear_cache() <= 2
        assert not engine.models
    assert threading.active_count() == threads


@pytest.mark.parametrize(
    ("module", "dims"),
    [
        (nn.Linear(8, 2), (8, 2)),
        (nn.Sequential(nn.ReLU(), nn.Linear(7, 3), nn.LayerNorm(3), nn.Linear(3, 5), nn.ReLU()), (7, 5)),
        (nn.Sequential(nn.Embedding(11, 4), nn.Linear(4, 1)), (11, 1)),
        (nn.Conv2d(3, 6, 1), (3, 6)),
        (nn.ReLU(), (None, None)),
    ],
)
def test_models_tell_how_wide_their_rows_are(module, dims):
    with InferenceEngine() as engine:
        model = engine.add_model("m", module)
        assert (model.input_dim, model.output_dim) == dims
        assert model.total_weight_count == sum(parameter.numel() for parameter in module.parameters())


def test_a_name_is_one_models(folders):
    with InferenceEngine() as engine:
        load(engine, folders[0], model_id="m")
        with pytest.raises(InvalidInput, match="'m', which is taken"):
            load(engine, folders[1], model_id="m")
        with pytest.raises(InvalidInput, match="model_id: expected a name, got ''"):
            load(engine, folders[1], model_id="")
        for path in ("", 3, b"one"):
            with pytest.raises(InvalidInput, match="path: expected a str or a path"):
                engine.load_model(path)
        with pytest.raises(InvalidInput, match="device: "):
            engine.load_model(folders[1], device="nowhere")
        with pytest.raises(InvalidInput, match="head: "):
            load(engine, folders[1], head="none")
        assert engine.models.keys() == {"m"}


def test_a_closed_engine_loads_nothing(folders):
    engine = InferenceEngine()
    pending = engine.load_model(folders[0])
    engine.close()
    with pytest.raises(EngineClosed):
        pending.result(WAIT)
    with pytest.raises(EngineClosed):
        load(engine, folders[1])
    assert not engine.models


def test_weights_must_have_the_checksum_that_was_asked_for(folders, tmp_path):
    files = sorted(folders[1].glob("*.safetensors"))
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    assert len(files) == 2
    assert checksum_of(folders[1]) == digest
    with InferenceEngine() as engine:
        load(engine, folders[1], checksum=f"SHA256:{digest.upper()}")
        load(engine, folders[1], checksum=digest)
        assert engine.cache_stats().misses == 1
        with pytest.raises(CheckpointError, match=f"expected weights of the SHA-256 {64 * '0'} .*, found {digest}"):
            load(engine, folders[1], checksum=64 * "0")
        for bad in ("abc", 3, digest[1:], digest + "0", "md5:" + digest):
            with pytest.raises(InvalidInput, match="checksum: expected 64 hexadecimal digits"):
                load(engine, folders[0], checksum=bad)
        damaged = tmp_path / "damaged"
        shutil.copytree(folders[1], damaged)
        content = bytearray((damaged / files[1].name).read_bytes())
        content[-1] ^= 1
        (damaged / files[1].name).write_bytes(content)
        with pytest.raises(CheckpointError, match="the files are damaged or of another model"):
            load(engine, damaged, checksum=digest)
        assert engine.models.keys() == {"two"}


def test_a_checksum_is_of_what_was_loaded(folders, tmp_path):
    path = tmp_path / "model"
    shutil.copytree(folders[0], path)
    with InferenceEngine() as engine:
        load(engine, path)
        file = path / "model.safetensors"
        content = bytearray(file.read_bytes())
        content[-1] = 0 if content[-1] else 0x55  # other codes, and valid ones
        file.write_bytes(content)
        with pytest.raises(CheckpointError, match="written to since the model was loaded; `remove_model`"):
            load(engine, path, checksum=checksum_of(path))
        engine.remove_model("model")
        assert load(engine, path, checksum=checksum_of(path)).model_id == "model"


def test_who_asks_for_a_wrong_checksum_spoils_no_other_load(folders, monkeypatch):
    load_files = Source.load

    def slow(self, path):
        time.sleep(0.2)
        return load_files(self, path)

    monkeypatch.setattr(Source, "load", slow)
    with InferenceEngine() as engine:
        wrong, right = engine.load_model(folders[0], checksum=64 * "0"), engine.load_model(folders[0])
        with pytest.raises(CheckpointError, match=64 * "0"):
            wrong.result(WAIT)
        assert right.result(WAIT).model_id == "one"


def test_memory_usage_tells_weights_and_pages(tiny):
    with InferenceEngine(EngineConfig(num_pages=8)) as engine:
        engine.add_model("tiny", tiny)
        engine.add_model("layer", nn.Linear(8, 2))
        usage = engine.memory_usage()
        by_id = {model.model_id: model for model in usage.models}
        assert (by_id["layer"].weights, by_id["layer"].pages, by_id["layer"].device) == (72, 0, "cpu")
        assert by_id["tiny"].weights >= sum(parameter.nbytes for parameter in tiny.parameters())
        shape = tiny.config
        assert by_id["tiny"].pages == 8 * 64 * shape.num_layers * 2 * shape.num_kv_heads * shape.head_dim * 4
        assert usage.weights == 72 + by_id["tiny"].weights
        assert usage.pages == by_id["tiny"].pages
        assert usage.resident is None or usage.resident > 2**20


def test_pending_work_is_a_coroutine_and_a_future():
    async def wait():
        cancelled = asyncio.create_task(Pending(lambda: time.sleep(0.05), "sleep"))
        await asyncio.sleep(0)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        with pytest.raises(ZeroDivisionError):
            await asyncio.create_task(Pending(lambda: 1 / 0, "fail"))
        return await asyncio.create_task(Pending(lambda: 3, "three")), await Pending(lambda: 4, "four")

    assert asyncio.run(wait()) == (3, 4)
    assert asyncio.run(Pending(lambda: 5, "five")) == 5
    slow = Pending(lambda: time.sleep(0.1), "slow")
    with pytest.raises(TimeoutError):
        slow.result(0.001)
    slow.result(WAIT)
    assert slow.done()


STEPS = st.lists(
    st.tuples(st.sampled_from(["load", "use", "begin", "end", "remove", "clear"]), st.integers(0, 5)), max_size=40
)
SIZES = (1, 2, 3, 5, 8, 0)


@settings(max_examples=300)
@given(steps=STEPS, most=st.integers(1, 3), total=st.sampled_from([None, 4, 9]))
def test_what_is_kept_is_what_a_plain_list_would_keep(steps, most, total):
    store, kept, uses = ModelStore(most, total), [], dict.fromkeys(range(6), 0)
    held_now = {}
    for what, number in steps:
        name = str(number)
        source = Source(name, name, (torch.device("cpu"),))
        if what == "load":
            held = Held(Model(name, nn.Identity(), None), source, False, SIZES[number])
            rest = [one for one in kept if one != number]
            fits = number in kept
            while not fits:
                fits = len(rest) < most and (total is None or sum(SIZES[one] for one in rest) + SIZES[number] <= total)
                idle = [one for one in rest if not uses[one]]
                if fits or not idle:
                    break
                rest.remove(idle[0])

            def make(_, held=held, name=name, number=number):
                return store.put(name, lambda: held, SIZES[number])

            if fits:
                store.load(source, None, make)
                kept = [*rest, number]
            else:
                with pytest.raises(OutOfMemory):
                    store.load(source, None, make)
        elif what == "clear":
            assert store.clear() == sum(not uses[one] for one in kept)
            kept = [one for one in kept if uses[one]]
        elif number not in kept:
            with pytest.raises(ModelNotFound):
                store.get(name)
        elif what in ("use", "begin"):
            kept = [*(one for one in kept if one != number), number]
            held_now[number] = store.begin(name) if what == "begin" else store.get(name)
            uses[number] += what == "begin"
        elif what == "end" and uses[number]:
            store.end(held_now[number])
            uses[number] -= 1
        elif what == "remove" and not uses[number]:
            store.remove(name)
            kept.remove(number)
        assert store.held.keys() == {str(one) for one in kept}
        assert store.stats().bytes == sum(SIZES[one] for one in kept)


CHILD = """
import gc, json, sys
from pathlib import Path
from bitnet_jit.engine import InferenceEngine
from bitnet_jit.system.memory import give_back

def resident(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))

small, large = sys.argv[1:]
with InferenceEngine() as engine:
    engine.load_model(small).result()
    gc.collect()
    give_back()
    base = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak is what is resident now
    engine.load_model(large).result()
    peak = resident("VmHWM") - base
    weights = next(m.weights for m in engine.memory_usage().models if m.model_id == "large")
print(json.dumps({"peak": peak, "weights": weights}))
"""


def write_deep(folder, depth):
    """Write a checkpoint whose blocks are all alike, which takes less time than drawing each."""
    write(folder, hidden_size=1024, intermediate_size=2816, num_hidden_layers=1)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": depth}))
    tensors = load_file(folder / "model.safetensors")
    block = [name for name in tensors if ".layers.0." in name]
    for number in range(1, depth):
        tensors |= {name.replace(".layers.0.", f".layers.{number}."): tensors[name].clone() for name in block}
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells a process's peak")
def test_loading_holds_the_weights_once(tmp_path):
    """Files are read into the tensors that stay: a second copy, or a file read as a whole, would be twice as much."""
    small, large = write(tmp_path / "small"), write_deep(tmp_path / "large", 32)
    child = subprocess.run([sys.executable, "-c", CHILD, small, large], capture_output=True, text=True, check=True)
    figures = json.loads(child.stdout)
    assert figures["weights"] > 90 * 2**20
    assert figures["peak"] < 1.5 * figures["weights"], figures


def test_the_embedded_model_is_one_however_it_is_named(loads):
    with InferenceEngine() as engine:
        assert load(engine, None) is load(engine, embedded_model())
        assert loads == ["tiny-bitnet"]
