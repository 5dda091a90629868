"""Throughput against concurrency: rows per second by callers, tokens per second by texts at a time."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import torch

from bitnet_jit.engine.targets.figures import Point

if TYPE_CHECKING:
    from bitnet_jit.engine.engine import InferenceEngine

PROMPT_TOKENS, NEW_TOKENS = 16, 32
LEVELS = (1, 2, 4, 8, 16, 32, 64)
CALLERS = (1, 2, 4, 8)


def rows_by_callers(
    engine: "InferenceEngine", model_id: str, x: torch.Tensor, seconds: float, callers: Sequence[int] = CALLERS
) -> tuple[Point, ...]:
    """Measure rows per second of threads that call `engine.infer` on x (rows, K), each again and again.

    Args:
        engine, model_id: which model.
        x: what each call takes.
        seconds: for each number of callers.
        callers: the numbers.
    """

    def point(count: int) -> Point:
        start = time.perf_counter()
        end = start + seconds
        with ThreadPoolExecutor(count) as pool:
            calls = sum(pool.map(lambda _: calls_until(end, lambda: engine.infer(model_id, x)), range(count)))
        return Point(count, calls * len(x) / (time.perf_counter() - start))

    engine.infer(model_id, x)
    return tuple(map(point, callers))


def calls_until(end: float, call: Callable[[], object]) -> int:
    """Call a function until a time has come, at least once; return how often."""
    count = 0
    while not count or time.perf_counter() < end:
        call()
        count += 1
    return count


def tokens_by_texts(
    engine: "InferenceEngine",
    model_id: str,
    vocab_size: int,
    levels: Sequence[int] = LEVELS,
    new_tokens: int = NEW_TOKENS,
) -> tuple[Point, ...]:
    """Measure tokens per second of texts that are asked for together, each of a prompt that no other one has.

    Args:
        engine, model_id: which decoder.
        vocab_size: token ids are drawn below it.
        levels: texts at a time.
        new_tokens: of each text at most; an end token ends it sooner.
    """
    generator = torch.Generator().manual_seed(0)

    def point(count: int) -> Point:
        prompts = torch.randint(0, vocab_size, (count, PROMPT_TOKENS), generator=generator).tolist()
        start = time.perf_counter()
        handles = [engine.submit(model_id, prompt, new_tokens) for prompt in prompts]
        tokens = sum(len(handle.result().tokens) for handle in handles)
        return Point(count, tokens / (time.perf_counter() - start))

    point(levels[0])  # compiles
    return tuple(max((point(count) for _ in range(2)), key=lambda each: each.per_second) for count in levels)
