"""llama.cpp under load: many requests by its batch interface, as its server runs them.

Each call of llama_decode has the last token of every running text, and prompts in pieces up to the size of a batch;
requests take a free place as soon as there is one. Tokens are the likeliest ones.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from benchmarks.providers.models.llama_cpp import MICRO_BATCH, LlamaModel

BATCH = 2048  # tokens per call, llama.cpp's default


@dataclass
class Text:
    """A text that is being written.

    Attributes:
        place: its number in llama.cpp.
        left: tokens of the prompt that have not been read.
        limit: of new tokens.
        length: tokens that have been read.
        new: new tokens.
    """

    place: int
    left: deque[int]
    limit: int
    length: int = 0
    new: list[int] = field(default_factory=list)

    def take(self, most: int) -> list[int]:
        """Take the tokens that come next, no more than so many."""
        if not self.left:
            return self.new[-1:]
        return [self.left.popleft() for _ in range(min(most, len(self.left)))]


def open_places(model: LlamaModel, places: int, tokens: int, unified: bool) -> None:
    """Give a model room for so many texts of so many tokens, in one cache for all or in one for each.

    Raises:
        MemoryError: there is not enough memory.
    """
    lib = model.lib
    model._free_context()
    parameters = lib.llama_context_default_params()
    parameters.n_ctx, parameters.n_seq_max = places * tokens, places
    parameters.n_batch, parameters.n_ubatch, parameters.kv_unified = BATCH, MICRO_BATCH, unified
    parameters.n_threads = parameters.n_threads_batch = model.threads
    parameters.no_perf = True
    model.context = lib.llama_init_from_model(model.model, parameters)
    if not model.context:
        raise MemoryError(f"llama.cpp makes no context for {places} texts of {tokens} tokens")


def answer_all(model: LlamaModel, requests: Sequence[tuple[Sequence[int], int]], places: int) -> list[list[int]]:
    """Write the texts of all requests, so many at a time; return their new tokens.

    Args:
        model: with places, by `open_places`.
        requests: token ids of a prompt, and how many tokens to write.
        places: texts at a time.
    """
    memory = model.lib.llama_get_memory(model.context)
    model.lib.llama_memory_clear(memory, False)
    waiting = deque(enumerate(requests))
    free, running, answers = list(range(places)), {}, {}
    while waiting or running:
        while waiting and free:
            number, (prompt, limit) = waiting.popleft()
            running[number] = Text(free.pop(), deque(prompt), limit)
        step(model, list(running.values()))
        for number, text in list(running.items()):
            if len(text.new) == text.limit:
                answers[number] = running.pop(number).new
                model.lib.llama_memory_seq_rm(memory, text.place, -1, -1)
                free.append(text.place)
    return [answers[number] for number in range(len(requests))]


def step(model: LlamaModel, running: Sequence[Text]) -> None:
    """Run one call: a token of each text that is written, then pieces of prompts as far as there is room."""
    tokens: list[int] = []
    positions: list[int] = []
    places: list[int] = []
    taking = []
    for text in sorted(running, key=lambda text: bool(text.left)):
        piece = text.take(BATCH - len(tokens))
        if piece:
            tokens += piece
            positions += range(text.length, text.length + len(piece))
            places += [text.place] * len(piece)
            text.length += len(piece)
            taking.append(text)
    chosen = model.decode(np.array(tokens), np.array(positions), np.array(places)).argmax(1)
    for text, token in zip(taking, chosen, strict=True):
        if not text.left:
            text.new.append(int(token))
