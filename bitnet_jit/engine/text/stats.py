"""`ModelStats`: what an engine does with one of its models, at one moment."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bitnet_jit.engine.text.worker import Worker


@dataclass(frozen=True)
class ModelStats:
    """One model's requests, pages and counts since it was added.

    Attributes:
        waiting, running: requests.
        pages, pages_used, pages_kept: of its cache: all, those not free, those kept for texts that begin alike.
        prompt_tokens, new_tokens: tokens that were read, and written.
        prefix_asked_tokens, prefix_hit_tokens: of prompts, and those of them whose pages were there already.
        steps, preemptions: steps that ran, and how often a request lost its pages to another.
        guessed, accepted: tokens that were guessed, and those of them that were right.
        finished, failed: requests that ended, as asked and otherwise.
        last_step: when the last step ended, by time.monotonic(); of several workers, that of the one with work that has
            made none for longest.
        alive: whether its worker takes requests, or one of several.
        replicas, replicas_alive: workers that it began with, and those that run.
        restarts: how often a process of a worker was started anew.
    """

    waiting: int
    running: int
    pages: int
    pages_used: int
    pages_kept: int
    prompt_tokens: int
    new_tokens: int
    prefix_asked_tokens: int
    prefix_hit_tokens: int
    steps: int
    preemptions: int
    guessed: int
    accepted: int
    finished: int
    failed: int
    last_step: float
    alive: bool
    replicas: int = 1
    replicas_alive: int = 1
    restarts: int = 0


def stats_of(workers: "Iterable[Worker]") -> ModelStats:
    """Return what the workers of a model do together; numbers may be of neighbouring steps."""
    each = [worker.stats() for worker in workers]
    if len(each) == 1:
        return each[0]
    living = [one for one in each if one.alive]
    busy = [one.last_step for one in living if one.waiting or one.running]
    total = {field.name: sum(getattr(one, field.name) for one in each) for field in fields(ModelStats)}
    for name in ("pages", "pages_used", "pages_kept"):  # those of a device that has failed are gone
        total[name] = sum(getattr(one, name) for one in living)
    last_step = min(busy, default=max(one.last_step for one in each))
    return ModelStats(**total | {"last_step": last_step, "alive": bool(living)})
