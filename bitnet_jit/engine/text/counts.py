"""`Counts`: what a replica has done."""

from dataclasses import dataclass


@dataclass
class Counts:
    """What a replica has done since it began.

    Attributes:
        prompt_tokens, new_tokens: computed, and written.
        steps: steps that it ran.
        finished, failed: requests that ended, as asked and otherwise.
        last_step: when the last step ended, in seconds of the monotonic clock.
    """

    prompt_tokens: int = 0
    new_tokens: int = 0
    steps: int = 0
    finished: int = 0
    failed: int = 0
    last_step: float = 0.0
