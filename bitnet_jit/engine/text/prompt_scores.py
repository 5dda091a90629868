"""Log-probabilities of the tokens of a prompt, each behind those before it: what evaluations ask for."""

import torch

from bitnet_jit.engine.text.delivery import at_place
from bitnet_jit.engine.text.request import Request
from bitnet_jit.generation.largest import largest
from bitnet_jit.generation.logprobs import empty, wanted

ROWS = 64  # of logits that are turned into probabilities at a time: they are wide


def wants_all(request: Request) -> bool:
    """Return whether the logits behind all tokens of a request's chunks are wanted, not those of its last one alone."""
    return request.prompt_logprobs is not None and len(request.prompt_scores) < request.prompt_length - 1


def note_scores(request: Request, logits: torch.Tensor, start: int) -> None:
    """Note the log-probabilities of a prompt's tokens behind each of a chunk.

    Args:
        request: keeps them; those that it has already are not noted again.
        logits: (n, vocab_size) float32, behind the tokens start to start + n - 1.
        start: the place of the chunk in the prompt.
    """
    first = len(request.prompt_scores)
    last = min(start + len(logits), request.prompt_length - 1)
    for begin in range(first, last, ROWS):
        end = min(begin + ROWS, last)
        targets = torch.tensor(request.ids[begin + 1 : end + 1], dtype=torch.int64, device=logits.device)
        rows = logits[begin - start : end - start]
        number = request.prompt_logprobs or 0
        scores = empty(len(rows), number, logits.device)
        wanted(slice(None), [number] * len(rows), logits.device).fill(scores, rows, largest(rows)[0], targets)
        request.prompt_scores += [at_place(scores, place) for place in range(len(rows))]
