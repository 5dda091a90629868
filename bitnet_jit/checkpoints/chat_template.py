"""Chat templates: a model's own, in Jinja, rendered in a sandbox as transformers renders them."""

import json
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from bitnet_jit.errors import CheckpointError, InvalidInput
from bitnet_jit.system.reading import read_file, read_json

MAX_FILE = 2**24  # bytes; configs with all tokens that were added take up to some MB
MAX_TEXT = 2**24  # characters of a rendered chat
MAX_SECONDS = 10.0
MAX_ROUNDS = 100_000  # of loops over ranges in one chat
SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token")


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


def template_of(folder: Path, source: Path | None = None) -> ChatTemplate | None:
    """Return the chat template of a model's folder, None where it has none.

    Args:
        folder: with tokenizer_config.json, and chat_template.jinja where that holds the template.
        source: a template in place of the model's.

    Raises:
        CheckpointError: a file cannot be read or is no template.
    """
    path, config = folder / "tokenizer_config.json", {}
    separate = folder / "chat_template.jinja"
    try:
        if path.is_file():
            config = read_json(path, MAX_FILE, allow_nan=True)
        path = source or separate
        text = read_file(path, MAX_FILE).decode() if source or separate.is_file() else template_in(config)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read as a chat template ({error})") from error
    return None if text is None else ChatTemplate(text, special_tokens(config), str(path))


def template_in(config: Any) -> str | None:
    """Return the template in a tokenizer_config.json: a text, or the one named "default" of several."""
    given = config.get("chat_template") if isinstance(config, dict) else None
    if isinstance(given, list):
        named = [item for item in given if isinstance(item, dict)]
        given = next((item.get("template") for item in named if item.get("name") == "default"), None)
    return given if isinstance(given, str) else None


def special_tokens(config: Any) -> dict[str, str]:
    """Return the special tokens that a tokenizer_config.json names: texts, or objects with a content."""
    given = {name: config.get(name) for name in SPECIAL} if isinstance(config, dict) else {}
    texts = {name: value.get("content") if isinstance(value, dict) else value for name, value in given.items()}
    return {name: value for name, value in texts.items() if isinstance(value, str)}
