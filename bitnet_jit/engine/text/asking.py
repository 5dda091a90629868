"""How a request is made of what a caller passes: checked first, so that nothing is held where it is refused."""

import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch

from bitnet_jit.arguments import as_real, show, whole_number
from bitnet_jit.engine.text.generation import Generation
from bitnet_jit.engine.text.pieces import TextPieces
from bitnet_jit.engine.text.request import Request
from bitnet_jit.errors import InvalidInput
from bitnet_jit.generation.decoder import Decoder
from bitnet_jit.generation.ngram import NGrams
from bitnet_jit.generation.prompts import Prompts, as_row, encode_prompt, limits_of
from bitnet_jit.generation.sampling import Sampling
from bitnet_jit.generation.stopping import Stop, parted, stop_rules
from bitnet_jit.problem import PAGE, pages_for

if TYPE_CHECKING:
    from bitnet_jit.engine.grammar.grammar import Grammar, Grammars

Prompt = str | Sequence[int] | torch.Tensor
MAX_PRIORITY = 2**31 - 1


def make_request(
    decoder: Decoder,
    prompt: Prompt,
    max_new_tokens: int | None,
    sampling: Sampling | None,
    stop: Stop,
    ignore_eos: bool = False,
) -> Request:
    """Return a request with its handle; see `InferenceEngine.submit`.

    Raises:
        InvalidInput: an argument is out of range, or the text would not fit the model's context.
    """
    config = decoder.config
    ids = (
        encode_prompt(decoder, prompt)[1]
        if isinstance(prompt, str)
        else as_row(0, prompt, config.vocab_size, config.context_length)
    )
    (limit,) = limits_of(Prompts([ids], True, None), config.context_length, max_new_tokens)
    options = Sampling() if sampling is None else sampling
    if not isinstance(options, Sampling):
        raise InvalidInput(f"sampling: expected a Sampling, got {show(sampling)}")
    options.check_vocabulary(config.vocab_size)
    if not isinstance(ignore_eos, bool):
        raise InvalidInput(f"ignore_eos: expected True or False, got {show(ignore_eos)}")
    ends = () if ignore_eos else config.eos_ids
    tokens, strings = parted(stop, config.vocab_size)
    named: tuple[int | str, ...] = (*tokens, *strings)  # `stop` may be an iterator
    (rule,) = stop_rules(named, ends, decoder.tokenizer, [ids], config.vocab_size)
    stream = None if decoder.tokenizer is None else decoder.tokenizer.stream(ids)
    generation = Generation(len(ids), TextPieces(stream, strings, ends), lambda: request.cancel())
    request = Request(ids, len(ids), limit, rule, options.seeded(), generation, time.monotonic())
    request.ignore_eos, request.stop = ignore_eos, named
    return request


def check_pages(request: Request, pages: int) -> None:
    """Raise InvalidInput where a text could not fit the pages of its model, were it alone."""
    needed = pages_for(len(request.ids) + request.limit)
    if needed > pages:
        raise InvalidInput(
            f"max_new_tokens: a prompt of {len(request.ids)} tokens and {request.limit} new ones take {needed} pages "
            f"of {PAGE} tokens, and the engine has {pages} (num_pages); ask for fewer"
        )


def set_terms(request: Request, priority: int, client: str, timeout_s: float | None) -> None:
    """Set how a request is treated beside others; InvalidInput where a value is out of range."""
    if not isinstance(client, str):
        raise InvalidInput(f"client: expected a str, got {show(client)}")
    request.priority, request.client = whole_number("priority", priority, -MAX_PRIORITY, MAX_PRIORITY), client
    if timeout_s is None:
        return
    seconds = as_real(timeout_s)
    if seconds is None or not 0 < seconds < math.inf:
        raise InvalidInput(f"timeout_s: expected a finite number of seconds above 0 or None, got {show(timeout_s)}")
    request.deadline = request.arrived + seconds


def set_extras(
    request: Request,
    grammars: "Grammars",
    grammar: "Grammar | None",
    speculate: Literal["ngram"] | None,
    prompt_logprobs: int | None,
) -> None:
    """Set what is done beside the text; InvalidInput where a value is out of range."""
    if speculate not in (None, "ngram"):
        raise InvalidInput(f'speculate: expected "ngram" or None, got {show(speculate)}')
    if prompt_logprobs is not None:
        most = grammars.decoder.config.vocab_size
        request.prompt_logprobs = whole_number("prompt_logprobs", prompt_logprobs, 0, most, none=True)
    if grammar is not None:
        if request.ignore_eos:
            raise InvalidInput("ignore_eos: expected False beside a grammar, whose texts end where they are whole")
        request.grammar, request.matcher = grammar, grammars.matcher(grammar)
    # with penalties a choice depends on the guesses before it; states cannot forget a wrong one
    goes_back = grammars.decoder.config.delta_net is None
    if speculate is not None and goes_back and not request.options.is_penalized:
        request.ngrams = NGrams()
