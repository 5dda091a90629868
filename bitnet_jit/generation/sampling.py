"""`Sampling`: the options by which the next token of one request is chosen from its logits.

They act in this order, which is that of transformers and vLLM where the two agree:

1. `logit_bias` is added.
2. Penalties: a token that stands in the prompt or in the new text has its logit divided by `repetition_penalty` where
   it is above 0, multiplied where it is not (CTRL, arXiv 1909.05858). Then `frequency_penalty` times the token's count
   in the new text is taken away, and `presence_penalty` once where it occurred there at all (OpenAI's formula).
3. Tokens outside of `allowed_token_ids`, and `banned_token_ids`, can never be taken.
4. At temperature 0 the largest logit is taken, the lowest id among equals.
5. Otherwise logits are divided by `temperature`, and a token is drawn among those that `top_k`, then `top_p`, then
   `min_p` leave. Their order is by logit, equal logits by id, so that `top_k` leaves k tokens and no more. `top_p` is a
   share of what `top_k` left, `min_p` one of the likeliest token's probability.

`logprobs` are of the model's logits as they are, before all of that, as vLLM gives them by default.
"""

import copy
import math
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field

from bitnet_jit.arguments import as_real, show, whole_number
from bitnet_jit.errors import InvalidInput

MAX_SEED = 2**63 - 1
MAX_K = 2**31 - 1  # no vocabulary is larger
MAX_ID = 2**31 - 1


@dataclass(frozen=True)
class Sampling:
    """Options of sampling for one request, checked by the constructor.

    Attributes:
        temperature: logits are divided by it; 0 always takes the likeliest token.
        top_k: only the k likeliest tokens can be drawn; None is no limit.
        top_p: only the likeliest tokens that together reach this probability can be drawn (nucleus sampling, arXiv
            1904.09751); None is no limit.
        seed: the same seed gives the same tokens; None draws anew each time.
        min_p: only tokens that are at least this share as likely as the likeliest can be drawn (arXiv 2407.01082);
            None is no limit.
        repetition_penalty: above 1 makes tokens of the prompt and of the new text less likely, below 1 likelier.
        presence_penalty: is taken from the logit of each token that the new text has.
        frequency_penalty: is taken from a token's logit once for each time that the new text has it.
        logit_bias: token id -> what is added to its logit.
        banned_token_ids: tokens that are never chosen.
        allowed_token_ids: the only tokens that can be chosen; one alone is forced. None allows all.
        logprobs: number of likeliest tokens whose log-probabilities are given beside the chosen one's; None gives none.

    Raises:
        InvalidInput: a value is out of range; the message names it.

    >>> Sampling(temperature=0.7, top_p=0.9, repetition_penalty=1.1, banned_token_ids=[13]).banned_token_ids
    (13,)
    >>> Sampling(repetition_penalty=0)
    Traceback (most recent call last):
    bitnet_jit.errors.InvalidInput: repetition_penalty: expected a finite number above 0, got 0
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None
    _: KW_ONLY
    min_p: float | None = None
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] | None = field(default=None, hash=False)
    banned_token_ids: Iterable[int] = ()
    allowed_token_ids: Iterable[int] | None = None
    logprobs: int | None = None

    def __post_init__(self) -> None:
        temperature, top_p, min_p = as_real(self.temperature), as_real(self.top_p), as_real(self.min_p)
        if temperature is None or not 0 <= temperature < math.inf:
            raise InvalidInput(f"temperature: expected a finite number of at least 0, got {show(self.temperature)}")
        if self.top_p is not None and (top_p is None or not 0 < top_p <= 1):
            raise InvalidInput(f"top_p: expected a number above 0 and at most 1 or None, got {show(self.top_p)}")
        if self.min_p is not None and (min_p is None or not 0 <= min_p <= 1):
            raise InvalidInput(f"min_p: expected a number from 0 to 1 or None, got {show(self.min_p)}")
        top_k = None if self.top_k is None else whole_number("top_k", self.top_k, 1, MAX_K, none=True)
        seed = None if self.seed is None else whole_number("seed", self.seed, 0, MAX_SEED, none=True)
        logprobs = None if self.logprobs is None else whole_number("logprobs", self.logprobs, 0, MAX_K, none=True)
        numbers = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed, "min_p": min_p}
        numbers |= {"logprobs": logprobs, **self._checked_penalties()}
        for name, value in (numbers | self._checked_tokens()).items():
            object.__setattr__(self, name, value)  # Python's numbers in place of NumPy's

    def _checked_penalties(self) -> dict[str, float]:
        """Return the penalties as floats."""
        penalties = {name: finite(name, getattr(self, name)) for name in ("presence_penalty", "frequency_penalty")}
        repetition = as_real(self.repetition_penalty)
        if repetition is None or not 0 < repetition < math.inf:
            raise InvalidInput(
                f"repetition_penalty: expected a finite number above 0, got {show(self.repetition_penalty)}"
            )
        return penalties | {"repetition_penalty": repetition}

    def _checked_tokens(self) -> dict[str, object]:
        """Return what is said of single tokens, as Python's numbers; a bias of zero is none."""
        banned = token_ids("banned_token_ids", self.banned_token_ids)
        allowed = None if self.allowed_token_ids is None else token_ids("allowed_token_ids", self.allowed_token_ids)
        if allowed is not None and not set(allowed) - set(banned):
            reason = "each is in banned_token_ids, too" if allowed else "without one, none could be chosen"
            raise InvalidInput(f"allowed_token_ids: expected a token that can be chosen, got {show(allowed)}; {reason}")
        bias = None if self.logit_bias is None else biases(self.logit_bias)
        return {"banned_token_ids": banned, "allowed_token_ids": allowed, "logit_bias": bias}

    @property
    def is_penalized(self) -> bool:
        """Return whether the choice depends on the tokens before it."""
        return (self.repetition_penalty, self.presence_penalty, self.frequency_penalty) != (1, 0, 0)

    def seeded(self) -> "Sampling":
        """Return the same options with a seed: a random one where there was none.

        >>> Sampling(temperature=1.0).seeded().seed is None
        False
        """
        if self.seed is not None:
            return self
        seeded = copy.copy(self)  # which has been checked
        object.__setattr__(seeded, "seed", secrets.randbits(63))
        return seeded

    def check_vocabulary(self, vocab_size: int) -> None:
        """Raise InvalidInput where a token lies outside of a vocabulary, or every one of it is banned."""
        named = {
            "logit_bias": self.logit_bias or (),
            "banned_token_ids": self.banned_token_ids,
            "allowed_token_ids": self.allowed_token_ids or (),
        }
        for name, tokens in named.items():
            if outside := [token for token in tokens if token >= vocab_size]:
                raise InvalidInput(f"{name}: expected ids from 0 to {vocab_size - 1}, got {outside[0]}")
        if len(tuple(self.banned_token_ids)) == vocab_size:
            raise InvalidInput(f"banned_token_ids: expected to leave a token, got all {vocab_size} of the vocabulary")
        if (self.logprobs or 0) > vocab_size:
            raise InvalidInput(
                f"logprobs: expected at most {vocab_size}, the size of the vocabulary, got {self.logprobs}"
            )


def finite(name: str, value: object) -> float:
    """Return an argument as a float; InvalidInput where it is NaN, infinite or no number."""
    number = as_real(value)
    if number is None or not math.isfinite(number):
        raise InvalidInput(f"{name}: expected a finite number, got {show(value)}")
    return number


def token_ids(name: str, value: object) -> tuple[int, ...]:
    """Return token ids, each once and in order; InvalidInput where the value is no collection of them."""
    if isinstance(value, str | bytes) or not isinstance(value, Iterable) or getattr(value, "ndim", 1) != 1:
        raise InvalidInput(f"{name}: expected token ids, got {show(value)}")
    return tuple(sorted({whole_number(name, token, 0, MAX_ID) for token in value}))


def biases(value: object) -> dict[int, float]:
    """Return a bias for each token id, in the order of ids; InvalidInput where the value is no such mapping."""
    if not isinstance(value, Mapping):
        raise InvalidInput(f"logit_bias: expected a mapping of token ids to numbers, got {show(value)}")
    pairs = {
        whole_number("logit_bias", token, 0, MAX_ID): finite(f"logit_bias: the bias of token {show(token)}", bias)
        for token, bias in value.items()
    }
    return dict(sorted(pairs.items()))


def gather_options(
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    seed: int | None,
    sampling: Sampling | Iterable[Sampling] | None,
) -> Sampling | tuple[Sampling, ...]:
    """Return the options of one call: those given one by one, or `sampling`, which may have one item per prompt.

    Raises:
        InvalidInput: a value is out of range, or options are given both ways.
    """
    single = Sampling(temperature, top_k, top_p, seed)
    if sampling is None:
        return single
    for name in ("temperature", "top_k", "top_p", "seed"):
        if (value := getattr(single, name)) != getattr(Sampling(), name):
            raise InvalidInput(f"{name}: expected within sampling, since that is given, got {value} beside it")
    if isinstance(sampling, Sampling):
        return sampling
    options = tuple(sampling) if isinstance(sampling, Iterable) else (sampling,)
    for item in options:
        if not isinstance(item, Sampling):
            raise InvalidInput(f"sampling: expected a Sampling, or one per prompt, got {show(item)}")
    return options


def per_prompt(sampling: Sampling | Sequence[Sampling], prompts: int) -> tuple[Sampling, ...]:
    """Return the options of each of so many prompts; InvalidInput where there are more or fewer."""
    options = (sampling,) * prompts if isinstance(sampling, Sampling) else tuple(sampling)
    if len(options) != prompts:
        raise InvalidInput(f"sampling: expected one Sampling per prompt, {prompts}, got {len(options)}")
    return options
