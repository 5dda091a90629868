"""`bitnet-jit chat`: questions and answers on the terminal; answers to stdout, everything else to stderr.

The engine writes the answers, so that keys and values of earlier messages are there when a chat goes on, and Ctrl-C
ends one answer alone.
"""

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bitnet_jit.cli.loading import load_model, sampling_of
from bitnet_jit.cli.options import (
    CacheOption,
    DeviceOption,
    Guesses,
    HeadOption,
    I2SOption,
    MinPOption,
    ModelArgument,
    PenaltyOption,
    SeedOption,
    SpeculateOption,
    TemperatureOption,
    TemplateOption,
    TopKOption,
    TopPOption,
)
from bitnet_jit.cli.patience import Patience
from bitnet_jit.cli.streams import say, tell, without_break, write
from bitnet_jit.errors import BitNetError, InvalidInput

if TYPE_CHECKING:
    from bitnet_jit.checkpoints.chat_template import ChatTemplate
    from bitnet_jit.engine.engine import InferenceEngine
    from bitnet_jit.engine.text.generation import Generation
    from bitnet_jit.generation.conversation import Conversation
    from bitnet_jit.generation.sampling import Sampling

HELP = """\
/reset        forget all messages but that of --system
/save FILE    keep the messages in a JSON file; /save! FILE replaces an older one
/help         show these lines
/exit         leave, as Ctrl-D does
//...         a message that begins with a slash
Ctrl-C        end an answer where it is"""
PROMPT = "> "
LEAVE = "to leave, press Ctrl-C again or Ctrl-D"


class Chat:
    """A chat on the terminal with one model of an engine.

    Args:
        engine: has the model, and no other.
        template: makes a prompt of messages.
        conversation: the messages so far.
        options: how tokens are chosen.
        limit: new tokens of an answer; None: as many as the model's context leaves.
        speculate: how the engine guesses tokens, or None.

    Attributes:
        refused: whether a message or a command was refused.
    """

    def __init__(
        self,
        engine: "InferenceEngine",
        template: "ChatTemplate",
        conversation: "Conversation",
        options: "Sampling",
        limit: int | None = None,
        speculate: Guesses | None = None,
    ) -> None:
        (self._model_id,) = engine.models
        self._engine, self._template, self._conversation = engine, template, conversation
        self._options, self._limit = options, limit
        self._guesses = None if speculate is None else speculate.value
        self.refused = False

    def run(self) -> None:
        """Take lines to the end of stdin, or to /exit; a second Ctrl-C in a row raises KeyboardInterrupt."""
        interrupted = False
        while True:
            try:
                line = read_line()
                if line is None or line.strip() == "/exit":
                    return
                interrupted = False
                self.take(line)
            except KeyboardInterrupt:
                if interrupted:
                    raise
                interrupted = True
                tell(f"\n{LEAVE}" if sys.stdin.isatty() else LEAVE)

    def take(self, line: str) -> None:
        """Do what a line says: answer a message, or follow a command; where it is refused, say why."""
        try:
            if line.startswith("/") and not line.startswith("//"):
                self.follow(*line.split(maxsplit=1))
            elif line.strip():
                self.answer(line.removeprefix("/") if line.startswith("//") else line)
        except BitNetError as error:
            self.refused = True
            say(f"error: {error}")

    def follow(self, command: str, argument: str = "") -> None:
        """Follow a command; InvalidInput where there is no such one."""
        if command == "/reset":
            self._conversation.reset()
            tell("all messages are forgotten")
        elif command in ("/save", "/save!"):
            self.save(argument.strip(), replace=command == "/save!")
        elif command == "/help":
            tell(HELP)
        else:
            raise InvalidInput(f"{command}: expected /reset, /save FILE, /help or /exit; //... is a message")

    def save(self, name: str, replace: bool) -> None:
        """Write the messages to a file.

        Raises:
            InvalidInput: it has no name, or exists and is not to be replaced.
            WriteError: it cannot be written.
        """
        from bitnet_jit.system.files import write_beside_and_rename
        from bitnet_jit.system.writing import writing

        if not name:
            raise InvalidInput("/save: expected the name of a file")
        file = Path(name)
        with writing(file):
            exists = os.path.lexists(file)
            if exists and not replace:
                raise InvalidInput(f"/save: {file} exists; /save! {file} replaces it")
            write_beside_and_rename(file, self._conversation.to_json(self._model_id))
        tell(f"{file} {'replaced' if exists else 'written'}: {len(self._conversation.messages)} messages")

    def answer(self, question: str) -> None:
        """Write the answer to a message, and keep both; Ctrl-C ends it, and what was written is kept.

        Raises:
            InvalidInput: the template refuses the message, or the model's context has no room for it.
            EngineError: the model cannot go on.
        """
        generation, written = self.submit(question), [""]
        try:
            with Patience("preparing kernels, which takes a while the first time") as patience:
                for piece in generation:
                    patience.end()
                    written.append(piece.text)
                    write(piece.text)
            ended = generation.completion.finish_reason == "length"
        except KeyboardInterrupt:
            generation.cancel()
            ended = True
        finally:
            if answer := "".join(written):
                self._conversation.add(question, answer)
            write("\n")
        if ended:
            tell(f"(stopped after {len(written) - 1} tokens)")

    def submit(self, question: str) -> "Generation":
        """Ask the engine for the answer to a message; InvalidInput as `answer` says."""
        from bitnet_jit.engine.models.model import text_parts
        from bitnet_jit.engine.text.chatting import chat_ids

        decoder, _ = text_parts(self._engine.model(self._model_id))
        ids = chat_ids(decoder, self._template, self._conversation.asked(question))
        room = decoder.config.context_length - len(ids)
        if room < 1:
            raise InvalidInput(
                f"message: the chat has {len(ids)} tokens with it, and the model's context has room for "
                f"{decoder.config.context_length}; shorten it, or begin anew by /reset"
            )
        limit = min(room, self._limit or room)
        return self._engine.submit(self._model_id, ids, limit, self._options, speculate=self._guesses)


def chat(
    model: ModelArgument = None,
    system: Annotated[str | None, typer.Option(help="What the model is told before all messages.")] = None,
    chat_template: TemplateOption = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Limit of new tokens of an answer. [default: what the context leaves]")
    ] = None,
    temperature: TemperatureOption = None,
    top_k: TopKOption = None,
    top_p: TopPOption = None,
    min_p: MinPOption = None,
    repetition_penalty: PenaltyOption = None,
    seed: SeedOption = None,
    device: DeviceOption = None,
    head: HeadOption = "checkpoint",
    cache: CacheOption = "auto",
    i2_s: I2SOption = "x86",
    speculate: SpeculateOption = None,
) -> None:
    """Chat with MODEL: each line is a message, and its answer is written as it comes; /help lists commands.

    Without a terminal, messages come from stdin, one per line; a refused one makes the exit code 1.
    """
    template = read_template(model, chat_template)
    decoder = load_model(model, device, head, cache, i2_s)
    from bitnet_jit.checkpoints.embedded import EMBEDDED
    from bitnet_jit.engine import EngineConfig, InferenceEngine
    from bitnet_jit.generation.conversation import Conversation

    options = sampling_of(decoder, temperature, top_k, top_p, min_p, repetition_penalty, seed)
    with InferenceEngine(EngineConfig(max_running=1)) as engine:
        engine.add_model(EMBEDDED if model is None else model, decoder)
        talk = Chat(engine, template, Conversation(system), options, max_new_tokens, speculate)
        tell("each line is a message; /help lists commands")
        talk.run()
    if talk.refused and not sys.stdin.isatty():
        raise typer.Exit(1)


def read_template(model: str | None, source: Path | None) -> "ChatTemplate":
    """Return the chat template of a model, or that of a file in its place.

    Raises:
        InvalidInput: there is none.
        CheckpointError: the model or the template cannot be read.
    """
    from bitnet_jit.checkpoints.chat_template import template_of
    from bitnet_jit.checkpoints.embedded import EMBEDDED, embedded_model
    from bitnet_jit.checkpoints.hub import find_model

    template = template_of(embedded_model() if model is None else find_model(model), source)
    if template is None:
        raise InvalidInput(
            f"model: {EMBEDDED if model is None else model} came without a chat template, so that it knows no "
            "messages; continue a text by bitnet-jit generate, or pass --chat-template FILE"
        )
    return template


def read_line() -> str | None:
    """Return the next line of stdin, on a terminal behind a prompt; None at its end."""
    if sys.stdin.isatty() and sys.stdout.isatty():
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401, with it `input` edits lines and recalls earlier ones
        try:
            return input(PROMPT)
        except EOFError:
            write("\n")
            return None
    if sys.stdin.isatty():
        print(PROMPT, end="", file=sys.stderr, flush=True)
    line = sys.stdin.readline()
    return without_break(line) if line else None
