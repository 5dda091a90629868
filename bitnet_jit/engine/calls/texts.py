"""`TextCalls`: texts of an engine in other forms than a handle: whole, in pieces, and answers to chats."""

from abc import abstractmethod
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Literal

from bitnet_jit.engine.text.asking import Prompt
from bitnet_jit.engine.text.chatting import Messages, chat_ids
from bitnet_jit.engine.text.generation import Completion, Generation, Piece
from bitnet_jit.errors import InvalidInput
from bitnet_jit.generation.decoder import Decoder
from bitnet_jit.generation.sampling import Sampling
from bitnet_jit.generation.stopping import Stop

if TYPE_CHECKING:
    from bitnet_jit.checkpoints.chat_template import ChatTemplate
    from bitnet_jit.engine.grammar.grammar import Grammar
    from bitnet_jit.engine.models.held import Held
    from bitnet_jit.engine.models.store import ModelStore


class TextCalls:
    """The calls of an engine that give text; all of them are requests of `submit`."""

    _store: "ModelStore"

    @abstractmethod
    def submit(
        self,
        model_id: str,
        prompt: Prompt,
        max_new_tokens: int | None = None,
        sampling: Sampling | None = None,
        stop: Stop = (),
        *,
        ignore_eos: bool = False,
        grammar: "Grammar | None" = None,
        speculate: Literal["ngram"] | None = None,
        prompt_logprobs: int | None = None,
        priority: int = 0,
        client: str = "",
        timeout_s: float | None = None,
    ) -> Generation:
        """Ask for a text; return its handle at once."""

    async def generate(
        self,
        model_id: str,
        prompt: Prompt,
        max_new_tokens: int | None = None,
        sampling: Sampling | None = None,
        stop: Stop = (),
        grammar: "Grammar | None" = None,
        ignore_eos: bool = False,
    ) -> Completion:
        """Write a text to its end; arguments and errors are those of `submit`, whose `result` does it in a thread."""
        return await self.submit(
            model_id, prompt, max_new_tokens, sampling, stop, grammar=grammar, ignore_eos=ignore_eos
        )

    def stream(
        self,
        model_id: str,
        prompt: Prompt,
        max_new_tokens: int | None = None,
        sampling: Sampling | None = None,
        stop: Stop = (),
        grammar: "Grammar | None" = None,
        ignore_eos: bool = False,
    ) -> AsyncIterator[Piece]:
        """Yield the pieces of a text in an event loop; in a thread, iterate what `submit` returns.

        The text ends where its reader leaves. Arguments and errors are those of `submit`, raised at the call.
        """
        return aiter(
            self.submit(model_id, prompt, max_new_tokens, sampling, stop, grammar=grammar, ignore_eos=ignore_eos)
        )

    def chat(
        self,
        model_id: str,
        messages: Messages,
        max_new_tokens: int | None = None,
        sampling: Sampling | None = None,
        stop: Stop = (),
        *,
        ignore_eos: bool = False,
        grammar: "Grammar | None" = None,
        template: "ChatTemplate | None" = None,
        priority: int = 0,
        client: str = "",
        timeout_s: float | None = None,
    ) -> Generation:
        """Ask for the answer to the last message of a chat; return its handle at once.

        Args:
            model_id, max_new_tokens, sampling, stop, ignore_eos, grammar, priority, client, timeout_s: as in `submit`.
            messages: each with a "role" and a "content", both str.
            template: makes a prompt of them; None: that of the model's folder.

        Raises:
            InvalidInput: the model has no template, or it takes no such messages; other errors are those of `submit`.
            CheckpointError: the template of the folder is damaged.
        """
        with self._store.using(model_id) as held:
            ids = chat_prompt(held, messages, template)
            return self.submit(
                model_id,
                ids,
                max_new_tokens,
                sampling,
                stop,
                ignore_eos=ignore_eos,
                grammar=grammar,
                priority=priority,
                client=client,
                timeout_s=timeout_s,
            )


def chat_prompt(held: "Held", messages: Messages, template: "ChatTemplate | None") -> list[int]:
    """Return the tokens of a chat up to the answer that is asked for; InvalidInput where the model writes no text."""
    if not isinstance(held.model.module, Decoder):
        raise InvalidInput(f"model_id: {held.model.model_id!r} is no decoder, and writes no text")
    return chat_ids(held.model.module, template or template_for(held), messages)


def template_for(held: "Held") -> "ChatTemplate":
    """Return the template of a model's files, read once; InvalidInput where it came without one."""
    from bitnet_jit.checkpoints.chat_template import template_of  # with Jinja, which takes megabytes

    if held.template is None and held.path is not None:
        held.template = template_of(held.path)
    if held.template is None:
        raise InvalidInput(
            f"template: the model {held.model.model_id} came without a chat template; pass a ChatTemplate, or use "
            "`submit`"
        )
    return held.template
