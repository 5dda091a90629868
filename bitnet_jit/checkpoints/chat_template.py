"""Chat templates: a model's own, in Jinja, rendered in a sandbox as transformers renders them."""

import json
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from bitnet_jit.checkpoints.formats.registry import format_of
from bitnet_jit.errors import CheckpointError, InvalidInput
from bitnet_jit.system.reading import read_file

MAX_FILE = 2**24  # bytes
MAX_TEXT = 2**24  # characters of a rendered chat
MAX_SECONDS = 10.0
MAX_ROUNDS = 100_000  # of loops over ranges in one chat


class TemplateRefusal(TemplateError):
    """A template has called raise_exception."""


class ChatTemplate:
    """A template that makes a prompt of messages.

    Args:
        source: in Jinja.
        special: names of special tokens, such as bos_token, and their texts.
        name: of the file, for errors.

    Attributes:
        source, special: as above.

    Raises:
        CheckpointError: it is no template.

    >>> source = "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}assistant:"
    >>> ChatTemplate(source, {"eos_token": "</s>"}).render([{"role": "user", "content": "Hi"}])
    'user: Hi</s>assistant:'
    """

    def __init__(self, source: str, special: Mapping[str, str] | None = None, name: str = "chat template") -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = tojson
        environment.globals |= {"raise_exception": refuse, "strftime_now": strftime_now}
        self.source, self.special = source, dict(special or {})
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise CheckpointError(f"{name}: expected a template in Jinja ({error})") from error

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Return the prompt of messages, which ends where the answer begins.

        Raises:
            InvalidInput: the template refuses the messages, fails, or does not end.
        """
        values = {"messages": [dict(message) for message in messages], "add_generation_prompt": True}
        values |= {"tools": None, "documents": None, "range": Rounds().range, **self.special}
        end, length, pieces = time.monotonic() + MAX_SECONDS, 0, []
        try:
            for piece in self._template.generate(values):
                pieces.append(piece)
                length += len(piece)
                if length > MAX_TEXT or time.monotonic() > end:
                    raise TemplateRefusal(f"more than {MAX_TEXT} characters, or {MAX_SECONDS} s")
        except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError, RecursionError) as error:
            raise InvalidInput(f"messages: the model's chat template does not take them ({error})") from error
        return "".join(pieces)


class Rounds:
    """The rounds that the loops of one chat may make over ranges: a loop in a loop would not end."""

    def __init__(self) -> None:
        self._left = MAX_ROUNDS

    def range(self, *bounds: int) -> range:
        """Return a range; TemplateRefusal where all of them together are too long."""
        result = range(*bounds)
        self._left -= len(result)
        if self._left < 0:
            raise TemplateRefusal(f"its loops take more than {MAX_ROUNDS} rounds")
        return result


def refuse(message: str) -> None:
    """Refuse the messages, called by templates as `raise_exception`."""
    raise TemplateRefusal(message)


def strftime_now(form: str) -> str:
    """Return the time of day in a form of strftime."""
    return datetime.now().strftime(form)


def tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Return JSON, without the escapes for HTML that Jinja's own filter makes."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def template_of(path: Path, source: Path | None = None) -> ChatTemplate | None:
    """Return the chat template that comes with a model, None where it has none.

    Args:
        path: the model's folder or file.
        source: the file of a template in place of the model's.

    Raises:
        CheckpointError: a file cannot be read or is no template.
    """
    chat, name = format_of(path).chat(path), path
    text = chat.source
    if source is not None:
        try:
            text, name = read_file(source, MAX_FILE).decode(), source
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{source}: cannot be read as a chat template ({error})") from error
    return None if text is None else ChatTemplate(text, chat.special, str(name))
