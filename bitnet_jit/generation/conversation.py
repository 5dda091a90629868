"""`Conversation`: the messages of a chat, and the file that keeps them."""

import json

from bitnet_jit.generation.unicode import well_formed

Message = dict[str, str]


class Conversation:
    """The messages of a chat, in their order; a template makes a prompt of them.

    Lone surrogates count as U+FFFD.

    Args:
        system: what is said to the model before all else; None says nothing.

    >>> chat = Conversation("Be brief.")
    >>> [message["role"] for message in chat.asked("Who wrote Genesis?")]
    ['system', 'user']
    >>> chat.add("Who wrote Genesis?", "Moses.")
    >>> len(chat.messages), len(chat.asked("And Exodus?"))
    (3, 4)
    >>> chat.reset()
    >>> chat.messages
    [{'role': 'system', 'content': 'Be brief.'}]
    """

    def __init__(self, system: str | None = None) -> None:
        self._first = [] if system is None else [message("system", system)]
        self._later: list[Message] = []

    @property
    def messages(self) -> list[Message]:
        """Return the messages so far."""
        return [*self._first, *self._later]

    def asked(self, question: str) -> list[Message]:
        """Return the messages with one more of the user, which is not kept: its answer may be refused."""
        return [*self.messages, message("user", question)]

    def add(self, question: str, answer: str) -> None:
        """Keep a message of the user, and the answer as far as it was written."""
        self._later += [message("user", question), message("assistant", answer)]

    def reset(self) -> None:
        """Forget all messages but that of the system."""
        self._later = []

    def to_json(self, model: str) -> bytes:
        """Return the content of a file that keeps the messages, beside the name of the model."""
        return (json.dumps({"model": model, "messages": self.messages}, indent=2, ensure_ascii=False) + "\n").encode()


def message(role: str, content: str) -> Message:
    """Return a message as templates expect it."""
    return {"role": role, "content": well_formed(content)}
