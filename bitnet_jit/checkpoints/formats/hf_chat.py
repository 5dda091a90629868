"""The chat template in a folder of Hugging Face."""

from pathlib import Path
from typing import Any

from bitnet_jit.checkpoints.formats.reader import Chat
from bitnet_jit.errors import CheckpointError
from bitnet_jit.system.reading import read_file, read_json

CONFIG, SEPARATE = "tokenizer_config.json", "chat_template.jinja"
MAX_FILE = 2**24  # bytes; configs with all tokens that were added take up to some MB
SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token")


def read_chat(folder: Path) -> Chat:
    """Return what tokenizer_config.json, and chat_template.jinja beside it, say of chats.

    Raises:
        CheckpointError: a file cannot be read.
    """
    path, config = folder / CONFIG, {}
    try:
        if path.is_file():
            config = read_json(path, MAX_FILE, allow_nan=True)
        path = folder / SEPARATE
        source = read_file(path, MAX_FILE).decode() if path.is_file() else template_in(config)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read as a chat template ({error})") from error
    return Chat(source, special_tokens(config))


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
