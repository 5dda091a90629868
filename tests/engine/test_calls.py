"""Other forms of calls: chats, pieces in an event loop, models by their paths, twins for threads and event loops."""

import asyncio
import json
import shutil
import time

import pytest
import torch
from small_checkpoints import write
from tensor_modules import Recorded, inputs

from bitnet_jit.checkpoints.chat_template import ChatTemplate
from bitnet_jit.checkpoints.embedded import embedded_model
from bitnet_jit.engine import EngineConfig, Grammar, InferenceEngine
from bitnet_jit.errors import CheckpointError, InvalidInput, ModelNotFound, OutOfMemory, RequestTimeout
from bitnet_jit.generation.sampling import Sampling

WAIT = 30
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: "
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who begat Isaac?"}]
PROMPT = "system: Be brief.\nuser: Who begat Isaac?\nassistant: "


@pytest.fixture
def chatty(tmp_path):
    """Copy the embedded model, with a chat template."""
    folder = tmp_path / "chatty"
    shutil.copytree(embedded_model(), folder)
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    return folder


def test_an_answer_is_the_text_behind_the_prompt_of_the_models_template(chatty):
    with InferenceEngine() as engine:
        engine.load_model(chatty).result(WAIT)
        plain = engine.submit("chatty", PROMPT, 20, Sampling(0.8, seed=1)).result(WAIT)
        answer = engine.chat("chatty", MESSAGES, 20, Sampling(0.8, seed=1))
        assert answer.prompt_tokens == len(PROMPT)
        assert answer.result(WAIT).tokens == plain.tokens
        stopped = engine.chat("chatty", MESSAGES, 60, stop=["e"]).result(WAIT)
        assert "e" not in stopped.text
        assert asyncio.run(awaited(engine.chat("chatty", tuple(MESSAGES), 20, Sampling(0.8, seed=1)))) == plain.text
        (chatty / "tokenizer_config.json").unlink()  # read once
        engine.chat("chatty", MESSAGES, 2).result(WAIT)
        with pytest.raises(RequestTimeout):
            engine.chat("chatty", MESSAGES, 900, timeout_s=0.01).result(WAIT)


async def awaited(generation):
    return (await generation).text


def test_a_template_can_be_passed(make_engine):
    engine = make_engine()
    template = ChatTemplate("{{ messages[0].content }}{{ raise_exception('no') if messages | length > 1 }}")
    plain = engine.submit("tiny", "And it ", 9).result(WAIT)
    answer = engine.chat("tiny", [{"role": "user", "content": "And it "}], 9, template=template).result(WAIT)
    assert answer.tokens == plain.tokens
    with pytest.raises(InvalidInput, match=r"the model's chat template does not take them \(no\)"):
        engine.chat("tiny", MESSAGES, 9, template=template)
    with pytest.raises(InvalidInput, match="template: the model tiny came without a chat template"):
        engine.chat("tiny", MESSAGES, 9)
    with pytest.raises(ModelNotFound):
        engine.chat("other", MESSAGES, 9)


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([], "messages: expected at least one message"),
        ("hello", "messages: expected at least one message, got 'hello'"),
        (MESSAGES[0], "messages: expected at least one message"),
        ([*MESSAGES, "hello"], r"messages\[2\]: expected a role and a content"),
        ([{"role": "user"}], r"messages\[0\]: expected a role and a content"),
        ([{"role": "user", "content": 3}], r"messages\[0\]: "),
    ],
)
def test_messages_that_are_none_are_refused(make_engine, messages, words):
    engine = make_engine()
    with pytest.raises(InvalidInput, match=words):
        engine.chat("tiny", messages, template=ChatTemplate(TEMPLATE))
    assert engine.stats()["tiny"].waiting == 0


def test_a_damaged_template_spoils_chats_alone(chatty):
    (chatty / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{% for %}"}))
    with InferenceEngine() as engine:
        engine.load_model(chatty).result(WAIT)
        assert engine.submit("chatty", PROMPT, 3).result(WAIT).text
        with pytest.raises(CheckpointError, match="expected a template in Jinja"):
            engine.chat("chatty", MESSAGES)


def test_a_stream_yields_the_pieces_of_the_text(make_engine):
    engine = make_engine()
    whole = engine.submit("tiny", "And it ", 30, Sampling(0.9, seed=4), stop=["z"]).result(WAIT)

    async def read():
        return [piece async for piece in engine.stream("tiny", "And it ", 30, Sampling(0.9, seed=4), stop=["z"])]

    pieces = asyncio.run(read())
    assert [piece.token for piece in pieces] == whole.tokens
    assert "".join(piece.text for piece in pieces) == whole.text
    with pytest.raises(InvalidInput, match="max_new_tokens"):
        engine.stream("tiny", "And it ", 0)  # at the call, not when it is read


def test_a_stream_whose_reader_leaves_ends(make_engine):
    engine = make_engine()

    async def leave():
        stream = engine.stream("tiny", "And it ", 1000)
        async for _ in stream:
            break
        await stream.aclose()

    asyncio.run(leave())
    deadline = time.monotonic() + WAIT
    while engine.stats()["tiny"].running and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (engine.stats()["tiny"].running, engine.stats()["tiny"].failed) == (0, 1)


def test_quick_infer_loads_once_and_knows_names_and_paths(tmp_path):
    folders = [write(tmp_path / name) for name in ("one", "two")]
    (tmp_path / "other").mkdir()
    same_name = write(tmp_path / "other" / "one")
    ids = torch.tensor([[1, 2, 3], [4, 5, 6]])
    with InferenceEngine(EngineConfig(max_cached_models=3)) as engine:
        outputs = [engine.quick_infer(path, ids) for path in (*folders, folders[0], str(folders[0]), "one")]
        assert engine.cache_stats().misses == 2
        assert [tuple(y.shape) for y in outputs] == [(2, 3, 256)] * 5
        expected = engine.model("one").module(ids)
        assert torch.equal(outputs[0], expected)
        assert torch.equal(outputs[-1], expected)
        assert torch.equal(asyncio.run(engine.quick_infer_async(same_name, ids)), expected)
        assert engine.models.keys() == {"one", "two", str(same_name)}
        assert engine.model("one").input_dim == engine.model("one").output_dim == 256
        with pytest.raises(CheckpointError):
            engine.quick_infer(tmp_path / "nowhere", ids)


def test_smart_infer_finds_a_size_and_goes_on_with_it(make_engine):
    engine = make_engine()
    module = Recorded(seconds=0.002)  # a call takes its time whatever it holds: large batches are faster
    engine.add_model("layer", module)
    xs = inputs([(5,)] * 600)
    for x, y in zip(xs, engine.smart_infer("layer", xs), strict=True):
        assert torch.equal(y, module.inner(x))
    largest = max(module.calls)
    assert largest >= 128 > module.calls[0]
    asyncio.run(engine.smart_infer_async("layer", xs))
    assert module.calls[-2] >= largest // 2  # what was learnt stays with the model


def test_smart_infer_halves_batches_that_do_not_fit(make_engine):
    engine = make_engine()
    module, never = Recorded(fits=40), Recorded(fits=0)
    engine.add_model("layer", module)
    engine.add_model("never", never)
    xs = inputs([(rows,) for rows in (1, 17, 33, 100, 3)])
    for x, y in zip(xs, engine.smart_infer("layer", xs), strict=True):
        assert torch.equal(y, module.inner(x))
    assert module.refused > 0
    with pytest.raises(OutOfMemory, match="a batch of one row"):
        engine.smart_infer("never", xs)


def test_each_blocking_call_has_its_twin(make_engine):
    engine = make_engine()
    module = Recorded()
    engine.add_model("layer", module)
    (x,) = inputs([(3,)])

    async def ask():
        results = await engine.benchmark_async("layer", x, 5)
        return results.iterations, await engine.infer_async("layer", x), await engine.infer_batch_async("layer", [x])

    iterations, y, (batched,) = asyncio.run(ask())
    assert iterations == 5 == engine.benchmark("layer", x, 5).iterations
    assert torch.equal(y, batched)
    for name in ("infer", "infer_batch", "quick_infer", "smart_infer", "benchmark"):
        assert asyncio.iscoroutinefunction(getattr(engine, f"{name}_async"))
        assert not asyncio.iscoroutinefunction(getattr(engine, name))


def test_every_form_of_a_text_takes_a_grammar(make_engine):
    grammar, template = Grammar.json_schema({"enum": [[1, "x"]]}), ChatTemplate("{{ messages[0].content }}")

    async def texts():
        engine = make_engine()
        yield (await engine.generate("tiny", "And ", 40, grammar=grammar)).text
        yield "".join([piece.text async for piece in engine.stream("tiny", "And ", 40, grammar=grammar)])
        message = {"role": "user", "content": "And "}
        yield (await engine.chat("tiny", [message], 40, grammar=grammar, template=template)).text

    async def collected():
        return [json.loads(text) async for text in texts()]

    assert asyncio.run(collected()) == [[1, "x"]] * 3
