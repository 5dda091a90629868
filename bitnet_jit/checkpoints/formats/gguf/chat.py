"""The chat template in the metadata of a GGUF file."""

from bitnet_jit.checkpoints.formats.gguf.keys import Keys
from bitnet_jit.checkpoints.formats.reader import Chat

TEMPLATE = "tokenizer.chat_template"
SPECIAL = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}


def read_chat(keys: Keys) -> Chat:
    """Return the template of a file, and the texts of its special tokens."""
    special = {}
    if keys.has("tokenizer.ggml.tokens"):
        tokens = keys.strings("tokenizer.ggml.tokens")
        ids = {name: keys.token(f"tokenizer.ggml.{word}_token_id", len(tokens)) for name, word in SPECIAL.items()}
        special = {name: tokens[number] for name, number in ids.items() if number is not None}
    return Chat(keys.text(TEMPLATE) if keys.has(TEMPLATE) else None, special)
