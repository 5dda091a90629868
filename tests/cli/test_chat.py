"""`bitnet-jit chat`: messages and answers by pipes, on a terminal and in this process; Ctrl-C ends one answer."""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
from typer.testing import CliRunner

import bitnet_jit
from bitnet_jit.checkpoints.chat_template import ChatTemplate
from bitnet_jit.cli.app import app
from bitnet_jit.cli.chat import Chat
from bitnet_jit.engine import EngineConfig, InferenceEngine
from bitnet_jit.errors import BitNetError, InvalidInput
from bitnet_jit.generation.conversation import Conversation
from bitnet_jit.generation.sampling import Sampling
from bitnet_jit.problem import PAGE

TEMPLATE = (
    "{% for m in messages %}{% if m.content == 'no' %}{{ raise_exception('never') }}{% endif %}{{ m.content }} "
    "{% endfor %}"
)
VERSE = "And it came to pass"
MAIN = "from bitnet_jit.cli import main; main()"
# a process that a shell starts in the background ignores Ctrl-C, and so do its children
HEEDING = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
TERMINAL = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
WAIT = 60

posix = pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for a single child")


@pytest.fixture(scope="module")
def decoder():
    return bitnet_jit.load()


@pytest.fixture
def template(tmp_path):
    path = tmp_path / "template.jinja"
    path.write_text(TEMPLATE)
    return str(path)


def expected(decoder, questions, limit, system=()):
    """Return the answers that the decoder gives to one question after another."""
    messages, answers = list(system), []
    for question in questions:
        messages.append(question)
        prompt = list("".join(f"{text} " for text in messages).encode())
        answers.append(bytes(decoder.stream(prompt, limit)).decode(errors="replace"))
        messages.append(answers[-1])
    return answers


def chat(text, template, *arguments):
    """Run the command in this process with a text as its standard input."""
    return CliRunner().invoke(app, ["chat", "--chat-template", template, "--max-new-tokens", "8", *arguments], text)


def test_a_script_of_messages_is_answered_line_by_line(decoder, template):
    lines = [VERSE.encode(), b"", b"//save", b"caf\xe9\x00", "née 🙂 \u2028 x".encode(), b"  spaces  "]
    command = [sys.executable, "-c", MAIN, "chat", "--chat-template", template, "--max-new-tokens", "8"]
    done = subprocess.run(command, input=b"\r\n".join(lines), capture_output=True, timeout=WAIT)
    assert done.returncode == 0, done.stderr.decode()
    questions = [VERSE, "/save", "caf\ufffd\x00", "née 🙂 \u2028 x", "  spaces  "]
    assert done.stdout.decode() == "".join(f"{answer}\n" for answer in expected(decoder, questions, 8))


@contextmanager
def talking(template, *arguments, start=HEEDING):
    """Yield a process that chats, its streams being pipes; it is ended in any case."""
    command = [sys.executable, "-c", start + MAIN, "chat", "--chat-template", template, *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0) as process:
        try:
            yield process
        finally:
            process.kill()


def read_until(file, words):
    """Read a pipe or terminal until some words have come; return all of it."""
    text, end = b"", time.monotonic() + WAIT
    while words not in text:
        assert select.select([file], [], [], max(0.0, end - time.monotonic()))[0], text
        more = os.read(file if isinstance(file, int) else file.fileno(), 4096)
        assert more, text
        text += more
    return text


@posix
def test_control_c_ends_one_answer_and_twice_ends_the_chat(template, tmp_path):
    file = tmp_path / "chat.json"
    with talking(template) as process:
        read_until(process.stderr, b"each line is a message")
        process.stdin.write(f"{VERSE}\n".encode())
        first = read_until(process.stdout, b"after the days")
        process.send_signal(signal.SIGINT)
        read_until(process.stderr, b"(stopped after ")
        process.stdin.write(b"In the beginning\n")
        first += read_until(process.stdout, b"\n")
        rest = first[first.index(b"\n") + 1 :] or read_until(process.stdout, b"e")
        process.send_signal(signal.SIGINT)
        read_until(process.stderr, b"(stopped after ")
        process.stdin.write(f"/save {file}\n".encode())
        read_until(process.stderr, b"4 messages")
        process.send_signal(signal.SIGINT)
        read_until(process.stderr, b"to leave, press Ctrl-C again or Ctrl-D")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=WAIT)
    assert process.returncode == 130
    assert b"Traceback" not in err
    kept = json.loads(file.read_text())["messages"]
    assert [message["content"] for message in kept[::2]] == [VERSE, "In the beginning"]
    answers = (first.partition(b"\n")[0], (rest + out).partition(b"\n")[0])
    assert [message["content"].encode() for message in kept[1::2]] == list(answers)
    assert 0 < len(answers[0]) < 900


@posix
def test_on_a_terminal(template, decoder):
    """Ctrl-C at the prompt says how to leave, and Ctrl-D leaves."""
    terminal, inner = os.openpty()
    arguments = ["chat", "--chat-template", template, "--max-new-tokens", "8"]
    command = [sys.executable, "-c", HEEDING + TERMINAL + MAIN, *arguments]
    options = {"stdin": inner, "stdout": inner, "stderr": inner, "start_new_session": True}
    with subprocess.Popen(command, **options, env=os.environ | {"TERM": "dumb"}) as process:
        try:
            os.close(inner)
            read_until(terminal, b"> ")
            os.write(terminal, f"{VERSE}\n".encode())
            (answer,) = expected(decoder, [VERSE], 8)
            assert answer.encode() in read_until(terminal, b"\n> ")
            time.sleep(0.5)  # Python's readline misses a signal between its prompt and its wait
            os.write(terminal, b"\x03")
            read_until(terminal, b"to leave, press Ctrl-C again or Ctrl-D\r\n> ")
            os.write(terminal, b"\x04")
            assert process.wait(WAIT) == 0
        finally:
            process.kill()
            os.close(terminal)


def test_history_reset_and_the_system_message(decoder, template):
    result = chat(f"{VERSE}\nagain\n/reset\nagain\n", template, "--system", "Listen:")
    first, second, third = result.stdout.splitlines()
    assert [first, second] == expected(decoder, [VERSE, "again"], 8, ["Listen:"])
    assert [third] == expected(decoder, ["again"], 8, ["Listen:"])
    assert (result.exit_code, "all messages are forgotten" in result.stderr) == (0, True)


def test_chats_are_kept_in_files(template, tmp_path):
    file, older = tmp_path / "a chat.json", tmp_path / "older.json"
    older.write_text("mine")
    lines = ["na\u00efve", f"/save {file}", f"/save {older}", "/exit", "never read"]
    result = chat("\n".join(lines), template)
    kept = json.loads(file.read_text())
    assert kept["model"] == "tiny-bitnet"
    assert [message["role"] for message in kept["messages"]] == ["user", "assistant"]
    assert kept["messages"][0]["content"] == "na\u00efve"
    assert f"error: /save: {older} exists; /save! {older} replaces it" in result.stderr
    assert (older.read_text(), result.exit_code) == ("mine", 1)
    replaced = chat(f"x\n/save! {older}\n", template)
    assert f"{older} replaced: 2 messages" in replaced.stderr
    assert len(json.loads(older.read_text())["messages"]) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a chat.json", "older.json", "template.jinja"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("x" * 2000, "message: the chat has 2030 tokens with it, and the model's context has room for 1024"),
        ("no", "messages: the model's chat template does not take them (never)"),
        ("/what", "/what: expected /reset, /save FILE, /help or /exit"),
        ("/save", "/save: expected the name of a file"),
        ("/save /no/such\x00place", "cannot be written"),
        ("/save /", "exists; /save! / replaces it"),
        ("/save! /", "cannot be written"),
    ],
)
def test_what_is_refused_leaves_the_chat_as_it_was(decoder, template, line, words):
    result = chat(f"{VERSE}\n{line}\nagain\n", template)
    assert words in result.stderr
    assert result.stdout.splitlines() == expected(decoder, [VERSE, "again"], 8)
    assert result.exit_code == 1


def test_help_lists_every_command(template):
    result = chat("/help\n", template)
    assert result.exit_code == 0
    for command in ("/reset", "/save FILE", "/save! FILE", "/help", "/exit", "Ctrl-C"):
        assert command in result.stderr


def test_a_model_without_a_template_is_told_the_way_out():
    result = CliRunner().invoke(app, ["chat"], "hello\n")
    assert isinstance(result.exception, InvalidInput)
    assert "came without a chat template" in str(result.exception)
    assert "bitnet-jit generate" in str(result.exception)
    assert result.stdout == ""


def test_draws_are_repeatable(template):
    options = ("--temperature", "1", "--top-k", "40", "--top-p", "0.95", "--seed")
    first, again, other = (chat("a\nb\n", template, *options, seed).stdout for seed in ("1", "1", "2"))
    assert first == again != other


@pytest.fixture
def engine(decoder):
    with InferenceEngine(EngineConfig(max_running=1)) as engine:
        engine.add_model("tiny", decoder)
        yield engine


def test_keys_and_values_of_earlier_messages_are_there(engine, decoder, capsys):
    talk = Chat(engine, ChatTemplate(TEMPLATE), Conversation(), Sampling(), 8)
    questions = ["x" * (2 * PAGE), "again"]
    for question in questions:
        talk.take(question)
    assert capsys.readouterr().out.splitlines() == expected(decoder, questions, 8)
    assert engine.stats()["tiny"].prefix_hit_tokens == 2 * PAGE
    assert not talk.refused


def test_an_answer_that_fails_keeps_what_was_written(engine, capsys):
    conversation = Conversation()
    talk = Chat(engine, ChatTemplate(TEMPLATE), conversation, Sampling(), 8)

    class Failing:
        """An answer that breaks off."""

        def __iter__(self):
            yield from (bitnet_jit.engine.text.generation.Piece(token, chr(token)) for token in b"half")
            raise BitNetError("the device has failed")

    talk.submit = lambda question: Failing()
    talk.take("a question")
    out, err = capsys.readouterr()
    assert out == "half\n"
    assert "error: the device has failed" in err
    assert talk.refused
    assert [message["content"] for message in conversation.messages] == ["a question", "half"]


def test_the_files_of_a_model_say_how_tokens_are_chosen(template, tmp_path):
    shutil.copytree(bitnet_jit.embedded_model(), tmp_path / "model")
    (tmp_path / "model" / "generation_config.json").write_text('{"temperature": 0.9, "top_k": 40}')
    result = chat("a\nb\n", template, str(tmp_path / "model"), "--seed", "1")
    assert "sampling: temperature 0.9, top_k 40 (generation_config.json)" in result.stderr
    assert result.stdout == chat("a\nb\n", template, "--seed", "1", "--temperature", "0.9", "--top-k", "40").stdout
