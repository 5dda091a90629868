"""POST /v1/chat/completions by the official client, and templates."""

import json

import openai
import pytest

from bitnet_jit.checkpoints.chat_template import ChatTemplate, template_of
from bitnet_jit.errors import CheckpointError, InvalidInput
from bitnet_jit.generation.sampling import Sampling

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who begat Isaac?"}]
PROMPT = "system: Be brief.\nuser: Who begat Isaac?\nassistant: "


def alone(decoder, limit, **options):
    """Return the answer that the decoder writes alone, and its tokens."""
    tokens = list(PROMPT.encode())
    new = decoder.generate(tokens, limit, sampling=Sampling(**options)).tolist()[len(tokens) :]
    return decoder.tokenizer.decode([token for token in new if token]), new


def test_the_answer_is_the_text_behind_the_templates_prompt(tiny, client):
    answer = client.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=20, temperature=0)
    assert answer.object == "chat.completion"
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content == alone(tiny, 20)[0]
    assert answer.usage.prompt_tokens == len(PROMPT)


def test_parts_of_a_message_are_one_text(client):
    parts = [{"type": "text", "text": "Who begat "}, {"type": "text", "text": "Isaac?"}]
    asked = {"model": "tiny", "max_completion_tokens": 20, "temperature": 0}
    answers = [
        client.chat.completions.create(messages=[MESSAGES[0], {"role": "user", "content": content}], **asked)
        for content in (parts, "Who begat Isaac?")
    ]
    assert answers[0].choices[0].message.content == answers[1].choices[0].message.content


def test_without_a_limit_the_text_may_fill_the_context(client):
    answer = client.chat.completions.create(model="tiny", messages=MESSAGES, temperature=0)
    assert answer.choices[0].finish_reason in ("length", "stop")
    if answer.choices[0].finish_reason == "length":
        assert answer.usage.total_tokens == 1024


@pytest.mark.parametrize("options", [{}, {"n": 2}, {"logprobs": True, "top_logprobs": 2}, {"stop": ["e"]}])
def test_a_stream_is_the_whole_answer(client, options):
    asked = {"model": "tiny", "messages": MESSAGES, "max_tokens": 25, "seed": 4, **options}
    whole = client.chat.completions.create(**asked)
    roles, texts, logprobs = [], [""] * len(whole.choices), []
    for chunk in client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}):
        assert chunk.object == "chat.completion.chunk"
        for choice in chunk.choices:
            roles += [choice.delta.role] if choice.delta.role else []
            texts[choice.index] += choice.delta.content or ""
            logprobs += choice.logprobs.content if choice.logprobs else []
    assert roles == ["assistant"] * len(texts)
    assert texts == [choice.message.content for choice in whole.choices]
    assert logprobs == (whole.choices[0].logprobs.content if "logprobs" in options else [])
    assert chunk.usage.completion_tokens == whole.usage.completion_tokens


def test_logprobs(tiny, client):
    answer = client.chat.completions.create(
        model="tiny", messages=MESSAGES, max_tokens=5, temperature=0, logprobs=True, top_logprobs=4
    )
    tokens = alone(tiny, 5)[1]
    expected = tiny([[*PROMPT.encode(), *tokens]])[0].log_softmax(-1)[len(PROMPT) - 1 : -1]
    content = answer.choices[0].logprobs.content
    assert [item.bytes for item in content] == [[token] for token in tokens]
    for item, token, row in zip(content, tokens, expected, strict=True):
        assert item.logprob == pytest.approx(row[token].item(), abs=1e-5)
        assert [top.logprob for top in item.top_logprobs] == pytest.approx(row.topk(4).values.tolist(), abs=1e-5)


def test_a_refusal_of_the_template_is_told(client):
    with pytest.raises(openai.BadRequestError, match="no developers here"):
        client.chat.completions.create(model="tiny", messages=[{"role": "developer", "content": "x"}])


def test_a_model_without_a_template_has_no_chat(serve):
    address, _ = serve()
    with (
        openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client,
        pytest.raises(openai.BadRequestError, match="without a chat template.*--chat-template") as caught,
    ):
        client.chat.completions.create(model="tiny", messages=MESSAGES)
    assert caught.value.param == "messages"


def test_templates_of_folders(tmp_path):
    assert template_of(tmp_path) is None
    config = {"chat_template": "{{ bos_token }}old", "bos_token": {"content": "<s>"}, "eos_token": "</s>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert template_of(tmp_path).render([]) == "<s>old"
    several = [{"name": "rag", "template": "no"}, {"name": "default", "template": "yes{{ eos_token }}"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": several}))
    assert template_of(tmp_path).render([]) == "yes</s>"
    (tmp_path / "chat_template.jinja").write_text("{{ bos_token }}own")
    assert template_of(tmp_path).render([]) == "<s>own", "the file wins"
    (tmp_path / "given").write_text("{{ messages | tojson }}")
    assert template_of(tmp_path, tmp_path / "given").render([{"content": "<é>"}]) == '[{"content": "<é>"}]'


@pytest.mark.parametrize("content", [b"{% for", b"\xff", None])
def test_a_file_that_is_no_template_is_named(tmp_path, content):
    file = tmp_path / "broken.jinja"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"broken\.jinja"):
        template_of(tmp_path, file)


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% for i in range(10**9) %}{% endfor %}",
        "{{ messages[7].content }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    ],
)
def test_templates_that_loop_or_reach_out_are_ended(source):
    with pytest.raises(InvalidInput, match="chat template"):
        ChatTemplate(source).render([{"role": "user", "content": "x"}])


def test_a_template_is_rendered_as_transformers_does():
    template_utils = pytest.importorskip("transformers.utils.chat_template_utils", reason="transformers renders, too")
    source = (
        "{{ bos_token }}{% for m in messages %}\n    {% if loop.first %}\n  {{- m['content'] | trim }}\n    {% else %}"
        "[{{ m.role }}]{{ m | tojson(indent=1) }}\n    {% endif %}\n{% endfor %}"
        "{% if add_generation_prompt %}A:{% endif %}"
    )
    (expected,), _ = template_utils.render_jinja_template(
        [MESSAGES], chat_template=source, add_generation_prompt=True, bos_token="<s>"
    )
    assert ChatTemplate(source, {"bos_token": "<s>"}).render(MESSAGES) == expected
