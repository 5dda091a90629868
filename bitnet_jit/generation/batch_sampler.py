"""`BatchSampler`: the next tokens of a running batch, one call for all rows, with options for each request.

A request is added with its options and its prompt and gets a number, which is its row in the sampler for as long as it
runs. Each step names the rows of its logits in any order, and the position of the token that is chosen for each.

>>> sampler = BatchSampler(vocab_size=4, device=torch.device("cpu"))
>>> greedy = sampler.add(Sampling(), prompt=[1, 2])
>>> drawn = sampler.add(Sampling(temperature=1.0, top_k=2, seed=7, frequency_penalty=0.5), prompt=[3])
>>> logits = torch.tensor([[0.0, 1.0, 2.0, 0.5], [3.0, 0.0, 2.0, 1.0]])
>>> choice = sampler.choose(logits, rows=[greedy, drawn], positions=[2, 1])
>>> tokens, errors = choice.fetch()
>>> tokens, errors
([2, 0], {})
>>> sampler.note([greedy, drawn], choice.tokens)
>>> sampler.remove(greedy)

A token depends on its row of logits, its request's options and noted tokens, its seed and its position: never on the
other rows, their number or order. Nothing waits for the device before `fetch`, which copies one number per row.

Where several tokens of one request are chosen in one call (drafted ones), its row is named several times with its
positions. Penalties know noted tokens alone; so a request with penalties has one drafted token chosen at a time, and
noted before the next.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from bitnet_jit.arguments import as_whole, show, whole_number
from bitnet_jit.errors import InvalidInput
from bitnet_jit.generation.draw import MAX_VOCABULARY, draw
from bitnet_jit.generation.largest import is_finite, largest
from bitnet_jit.generation.logprobs import Logprobs, empty
from bitnet_jit.generation.masks import apply_masks
from bitnet_jit.generation.penalties import Tally
from bitnet_jit.generation.plan import Part, Plan, Request, make_plan
from bitnet_jit.generation.random_bits import random_words
from bitnet_jit.generation.sampling import Sampling
from bitnet_jit.ops.greedy import Largest
from bitnet_jit.problem import NO_TOKEN

DAMAGED, EMPTY = NO_TOKEN, -2
ERRORS = {
    DAMAGED: "the model computed logits that are NaN or infinite: its weights are damaged",
    EMPTY: "the options leave no token to choose: each is banned or has a logit of -inf, or a penalty or a bias made a "
    "logit infinite",
}
STEPS_AHEAD = 32  # positions for which random bits are made at once


@dataclass(frozen=True)
class Choice:
    """The chosen tokens of a batch of B rows, on the device.

    Attributes:
        tokens: (B,) int64; any token where a row failed.
        codes: (B,) int64, the tokens, and a negative number where a row failed.
        logprobs: where a row asked for some, else None.
    """

    tokens: torch.Tensor
    codes: torch.Tensor
    logprobs: Logprobs | None

    @property
    def ok(self) -> torch.Tensor:
        """Return whether a row has a token, (B,) bool."""
        return self.codes >= 0

    @property
    def damaged(self) -> torch.Tensor:
        """Return whether the model's logits are NaN or infinite, (B,) bool."""
        return self.codes == DAMAGED

    def fetch(self) -> tuple[list[int], dict[int, str]]:
        """Wait for the device and copy its answer.

        Returns:
            The token of each row, a negative number where it failed; and row -> what is wrong with it, in words.
        """
        return read_codes(self.codes)


def read_codes(codes: torch.Tensor) -> tuple[list[int], dict[int, str]]:
    """Return the codes of a choice as tokens and errors; see `Choice.fetch`."""
    tokens: list[int] = codes.tolist()
    return tokens, {row: ERRORS[token] for row, token in enumerate(tokens) if token < 0}


def check_prompt(prompt: Sequence[int], vocab_size: int) -> None:
    """Raise InvalidInput unless the ids of a prompt are whole numbers below vocab_size."""
    if set(map(type, prompt)) <= {int} and min(prompt, default=0) >= 0 and max(prompt, default=0) < vocab_size:
        return  # at once for a long prompt; the words below are for what is not so plain
    if outside := [token for token in prompt if as_whole(token) not in range(vocab_size)]:
        raise InvalidInput(f"prompt: expected ids from 0 to {vocab_size - 1}, got {show(outside[0])}")


class BatchSampler:
    """The sampling of a running batch; the module's docstring has an example.

    Args:
        vocab_size: number of tokens, below 2^20.
        device: where logits are.

    Raises:
        InvalidInput: the vocabulary is too large.
    """

    def __init__(self, vocab_size: int, device: torch.device) -> None:
        self.vocab_size = whole_number("vocab_size", vocab_size, 1, MAX_VOCABULARY - 1)
        self.device = torch.device(device)
        self._requests: dict[int, Request] = {}
        self._free: list[int] = []
        self._tally = Tally(self.vocab_size, self.device)
        self._plan: tuple[tuple[int, ...], Plan] | None = None
        self._ahead: tuple[Plan, list[int], torch.Tensor] | None = None

    def add(self, options: Sampling, prompt: Sequence[int], is_masked: bool = False) -> int:
        """Take in a request.

        Args:
            options: its own; without a seed it gets a random one.
            prompt: its tokens, for the repetition penalty.
            is_masked: whether each choice for it comes with a mask.

        Returns:
            Its row, until it is removed.

        Raises:
            InvalidInput: a token of the options or the prompt is not in the vocabulary, or the options ban all.
        """
        options.check_vocabulary(self.vocab_size)
        check_prompt(prompt, self.vocab_size)
        slot = self._tally.add(options, prompt) if options.is_penalized else None
        row = self._free.pop() if self._free else len(self._requests)
        self._requests[row] = Request(options.seeded(), slot, is_masked)
        return row

    def options(self, row: int) -> Sampling:
        """Return the options of a request, with the seed that its draws come from."""
        return self._request(row).options

    def remove(self, row: int) -> None:
        """Forget a request; its row will be another's."""
        slot = self._request(row).slot
        if slot is not None:
            self._tally.remove(slot)
        del self._requests[row]
        self._free.append(row)
        self._plan = None  # its row may soon be another's

    def choose(
        self,
        logits: torch.Tensor,
        rows: Sequence[int],
        positions: Sequence[int],
        best: Largest | None = None,
        masks: torch.Tensor | None = None,
    ) -> Choice:
        """Choose a token for each row of logits.

        Args:
            logits: (B, vocab_size) float32, on the sampler's device; they are not changed.
            rows: B numbers of requests.
            positions: B positions of the tokens that are chosen, each in its sequence with the prompt.
            best: the largest of these logits where they are known; its tokens become those that are chosen.
            masks: (m, words) int32 on the sampler's device, of the m rows that have one, in the order of `rows`; see
                `masks.apply_masks`.

        Raises:
            InvalidInput: another shape or dtype, a row without a request, or a negative position.
        """
        plan = self._planned(logits, rows, positions)
        if (0 if masks is None else len(masks)) != plan.num_masks:
            raise InvalidInput(f"masks: expected one for each of {plan.num_masks} rows, got {show(masks)}")
        top, tokens, codes = largest(logits) if best is None else best
        if plan.parts:
            ok, words = codes >= 0, self._words(plan, positions) if plan.is_drawn else None
            for part in plan.parts:
                self._choose_part(part, logits, top, words, tokens, ok, masks)
            codes = torch.where(ok, tokens, torch.where(codes < 0, codes, EMPTY))
        logprobs = None
        if plan.number is not None:
            logprobs = empty(len(rows), plan.number, self.device)
            for wanted in plan.wanted:
                wanted.fill(logprobs, logits, top, tokens)
        return Choice(tokens, codes, logprobs)

    def note(self, rows: Sequence[int], tokens: torch.Tensor, places: Sequence[int] | None = None) -> None:
        """Count tokens as new text of their rows, in order; it costs next to nothing where no row has penalties.

        Args:
            rows: numbers of requests; one may be named several times.
            tokens: (n,) int64.
            places: where the token of each row stands in `tokens`; None: in the order of the rows.

        Raises:
            InvalidInput: a row has no request.
        """
        slots = [self._request(row).slot for row in rows]
        noted = [(place, slot) for place, slot in enumerate(slots) if slot is not None]
        if noted:
            where = [place if places is None else places[place] for place, _ in noted]
            self._tally.note(where, [slot for _, slot in noted], tokens)

    def _choose_part(
        self,
        part: Part,
        logits: torch.Tensor,
        top: torch.Tensor,
        words: torch.Tensor | None,
        tokens: torch.Tensor,
        ok: torch.Tensor,
        masks: torch.Tensor | None,
    ) -> None:
        """Write the tokens of a part's rows, and whether they have one, into the results of the batch."""
        logits, top, chosen = logits[part.place], top[part.place], tokens[part.place]
        if part.edits is not None or part.masks is not None:
            logits = logits.clone() if isinstance(part.place, slice) else logits
            if part.edits is not None:
                part.edits.apply(logits, self._tally)
            if part.masks is not None and masks is not None:
                apply_masks(logits, masks[part.masks])
            top, chosen, _ = largest(logits)
            ok[part.place] &= is_finite(top)
        if part.limits is not None:
            assert words is not None
            chosen = draw(logits, top, words[part.place], part.limits)
        tokens[part.place] = chosen

    def _request(self, row: int) -> Request:
        """Return a request; InvalidInput where the row has none."""
        request = self._requests.get(row)
        if request is None:
            raise InvalidInput(f"row: expected one that was added and not removed, got {show(row)}")
        return request

    def _planned(self, logits: torch.Tensor, rows: Sequence[int], positions: Sequence[int]) -> Plan:
        """Check the arguments of a choice; return the plan of its rows, which is kept while they stay."""
        if logits.dtype != torch.float32 or logits.shape != (len(rows), self.vocab_size):
            raise InvalidInput(
                f"logits: expected float32 ({len(rows)}, {self.vocab_size}), got {logits.dtype} {tuple(logits.shape)}"
            )
        if len(positions) != len(rows) or min(positions, default=0) < 0:
            raise InvalidInput(f"positions: expected {len(rows)}, of at least 0, got {show(list(positions))}")
        key = tuple(rows)
        if self._plan is None or self._plan[0] != key:
            requests = [self._request(row) for row in key]
            self._plan = key, make_plan(requests, self.vocab_size, self.device)
        return self._plan[1]

    def _words(self, plan: Plan, positions: Sequence[int]) -> torch.Tensor:
        """Return the random bits of each row, (B, 2) int64; they are made for some positions ahead."""
        if self._ahead is not None and self._ahead[0] is plan:
            _, starts, table = self._ahead
            step = positions[0] - starts[0]
            if 0 <= step < STEPS_AHEAD and all(p - start == step for p, start in zip(positions, starts, strict=True)):
                return table[:, step]
        seeds = torch.tensor([[request.options.seed] for request in plan.requests], dtype=torch.int64, device="cpu")
        ahead = torch.tensor(positions, dtype=torch.int64, device="cpu")[:, None] + torch.arange(
            STEPS_AHEAD, dtype=torch.int64, device="cpu"
        )
        table = random_words(seeds, ahead).to(self.device, non_blocking=True)
        self._ahead = plan, list(positions), table
        return table[:, 0]
