"""Cached prefixes: the time to the first token of a prompt whose beginning was there, over that of one that was not."""

from collections.abc import Callable

import torch

from benchmarks.suites.engine_text.figure import Figure
from benchmarks.suites.engine_text.options import Options
from bitnet_jit.engine import EngineConfig, InferenceEngine
from bitnet_jit.generation.decoder import Decoder
from bitnet_jit.problem import PAGE, pages_for

LIMIT = 0.10
TAIL = 32  # tokens behind the prefix, which each request has for itself
NEW = 2


def prefix(decoder: Decoder, options: Options, say: Callable[[str], object]) -> Figure:
    """Measure prompts in pairs of a common beginning; the best time of each kind counts.

    Raises:
        RuntimeError: the beginning was not in the cache.
    """
    generator = torch.Generator().manual_seed(0)

    def draw(count: int) -> list[int]:
        return torch.randint(0, decoder.config.vocab_size, (count,), generator=generator).tolist()

    whole = options.prefix // PAGE * PAGE
    pages = 3 * pages_for(options.prefix + TAIL + NEW)
    times: dict[str, list[float]] = {"uncached": [], "cached": []}
    with InferenceEngine(EngineConfig(num_pages=pages)) as engine:
        engine.add_model("model", decoder)
        for turn in range(1 + options.turns):
            say(f"prefix, turn {turn}")
            common = draw(options.prefix)
            for kind in times:
                done = engine.submit("model", common + draw(TAIL), NEW).result()
                if done.cached_tokens != (whole if kind == "cached" else 0):
                    raise RuntimeError(f"{kind}: {done.cached_tokens} of {options.prefix} tokens were in the cache")
                times[kind].append(done.first_token_s)
    uncached, cached = (min(each[1:]) for each in times.values())
    details = {"uncached_s": uncached, "cached_s": cached, "prefix_tokens": options.prefix}
    return Figure(
        "prefix", f"first token, cached / uncached, {options.prefix}", cached / uncached, LIMIT, False, details
    )
