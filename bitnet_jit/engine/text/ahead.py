"""`Ahead`: a step that was begun before the tokens of the one before had come to the host.

A GPU would idle while the host reads tokens, hands them out and plans. So where a step is sure to be followed by one
of the same texts (nobody waits, no prompt is being read, pages are free), the next one is begun at once, with the
tokens that are still on the device. A text that turns out to have ended has a row in it that nobody reads.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bitnet_jit.engine.text.request import Request
from bitnet_jit.generation.batch_sampler import Choice
from bitnet_jit.runner.decode import Scores
from bitnet_jit.runner.runner import Runner

GoesOn = Callable[[Sequence[Request]], bool]  # whether these requests alone, all of them, may have a next step


@dataclass(frozen=True)
class Ahead:
    """A step that was begun.

    Attributes:
        requests: whose last tokens it computes.
        scores: behind those.
    """

    requests: list[Request]
    scores: Scores

    @property
    def alive(self) -> list[Request]:
        """Return the requests that have not ended since."""
        return [request for request in self.requests if request.row >= 0]

    def left(self) -> tuple[list[Request], Scores]:
        """Return those requests, and the scores behind their last tokens."""
        places = [place for place, request in enumerate(self.requests) if request.row >= 0]
        if len(places) == len(self.requests):
            return self.requests, self.scores
        return self.alive, Scores(self.scores.logits[places], None)


def begin(runner: Runner, ready: Sequence[Request], choice: Choice, goes_on: GoesOn) -> Ahead | None:
    """Begin the step behind one whose tokens were just chosen, where it is sure to come; return it.

    Args:
        runner: the network and its pages.
        ready: the requests that get these tokens, each one.
        choice: their tokens, on the device.
        goes_on: whether requests may have a next step now.
    """
    places = [place for place, request in enumerate(ready) if request.new_tokens + 1 < request.limit]
    if not places or not runner.runs_ahead or any(request.ngrams is not None for request in ready):
        return None
    if not goes_on(ready):
        return None
    requests = [ready[place] for place in places]
    tokens = choice.tokens if len(places) == len(ready) else choice.tokens[places]
    return Ahead(requests, runner.advance([request.sequence for request in requests], tokens))
