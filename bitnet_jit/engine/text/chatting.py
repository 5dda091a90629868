"""How a chat becomes a prompt: by the model's own template, in its tokens."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from bitnet_jit.arguments import show
from bitnet_jit.errors import InvalidInput
from bitnet_jit.generation.decoder import Decoder
from bitnet_jit.generation.prompts import encode_prompt
from bitnet_jit.generation.text import without_added

if TYPE_CHECKING:
    from bitnet_jit.checkpoints.chat_template import ChatTemplate

Messages = Sequence[Mapping[str, str]]


def chat_ids(decoder: Decoder, template: "ChatTemplate", messages: Messages) -> list[int]:
    """Return the tokens of a chat, behind which the answer begins.

    Args:
        decoder: the model.
        template: writes all special tokens, so that the tokenizer adds none.
        messages: each with a "role" and a "content", both str.

    Raises:
        InvalidInput: a message is no such mapping, the template refuses them, or the model takes no text.
    """
    check_messages(messages)
    tokenizer, tokens = encode_prompt(decoder, template.render(messages))
    return without_added(tokens, tokenizer.encode(""))


def check_messages(messages: object) -> None:
    """Raise InvalidInput unless these are messages."""
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence) or not messages:
        raise InvalidInput(f"messages: expected at least one message, got {show(messages)}")
    for place, message in enumerate(messages):
        if not isinstance(message, Mapping) or not all(
            isinstance(message.get(name), str) for name in ("role", "content")
        ):
            raise InvalidInput(f"messages[{place}]: expected a role and a content, both str, got {show(message)}")
