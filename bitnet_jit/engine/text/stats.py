"""`ModelStats`: what an engine does with one of its models, at one moment."""

from dataclasses import dataclass, fields

from bitnet_jit.engine.text.replica import Replica
from bitnet_jit.engine.text.replicas import ReplicaGroup


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
        alive: whether its worker runs, or one of several.
        replicas, replicas_alive: workers that it began with, and those that run.
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


def stats_of(group: Replica | ReplicaGroup) -> ModelStats:
    """Return what the replicas of a model do together; numbers may be of neighbouring steps."""
    replicas = group.members
    each = [stats_of_one(replica) for replica in replicas]
    if len(each) == 1:
        return each[0]
    living = [one for one in each if one.alive]
    busy = [one.last_step for one in living if one.waiting or one.running]
    total = {field.name: sum(getattr(one, field.name) for one in each) for field in fields(ModelStats)}
    for name in ("pages", "pages_used", "pages_kept"):  # those of a device that has failed are gone
        total[name] = sum(getattr(one, name) for one in living)
    last_step = min(busy, default=max(one.last_step for one in each))
    return ModelStats(**total | {"last_step": last_step, "alive": bool(living)})


def stats_of_one(replica: Replica) -> ModelStats:
    """Return what a replica does; read from another thread."""
    scheduler, counts = replica.scheduler, replica.counts
    pool, prefixes = scheduler.cache.pool, scheduler.prefixes
    guessed, accepted = replica.guesses
    return ModelStats(
        waiting=replica.num_waiting,
        running=len(scheduler.running),
        pages=pool.count,
        pages_used=pool.count - pool.num_free,
        pages_kept=0 if prefixes is None else len(prefixes),
        prompt_tokens=counts.prompt_tokens,
        new_tokens=counts.new_tokens,
        prefix_asked_tokens=0 if prefixes is None else prefixes.asked,
        prefix_hit_tokens=0 if prefixes is None else prefixes.hits,
        steps=counts.steps,
        preemptions=scheduler.preemptions,
        guessed=guessed,
        accepted=accepted,
        finished=counts.finished,
        failed=counts.failed,
        last_step=counts.last_step,
        alive=(alive := replica.is_alive),
        replicas_alive=int(alive),
    )
