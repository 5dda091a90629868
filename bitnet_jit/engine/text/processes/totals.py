"""`Totals`: the counts of a worker over all of its processes."""

from dataclasses import dataclass, replace

from bitnet_jit.engine.text.stats import ModelStats

COUNTED = ("prompt_tokens", "prefix_asked_tokens", "prefix_hit_tokens", "steps", "preemptions", "guessed", "accepted")
NOTHING = ModelStats(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0.0, False)


@dataclass
class Totals:
    """What the processes of a worker did that have ended.

    Attributes:
        new_tokens: that have come of all processes.
        restarts: processes but the first.
        last_step: when a step ended last, or a process began.
    """

    new_tokens: int = 0
    restarts: int = 0
    last_step: float = 0.0
    _before: ModelStats = NOTHING

    def note(self, stats: ModelStats | None) -> None:
        """Take note of what the present process told."""
        if stats is not None:
            self.last_step = max(self.last_step, stats.last_step)

    def add(self, stats: ModelStats | None) -> None:
        """Count a process that has ended, as it told last."""
        if stats is not None:
            self._before = self.with_present(stats)

    def with_present(self, stats: ModelStats | None) -> ModelStats:
        """Return the counts with those of the present process."""
        if stats is None:
            return self._before
        return replace(stats, **{name: getattr(stats, name) + getattr(self._before, name) for name in COUNTED})
