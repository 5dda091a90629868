"""A long prompt that arrives while streams run: their longest pause over their usual step."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median

import torch

from benchmarks.suites.engine_text.figure import Figure
from benchmarks.suites.engine_text.options import Options
from bitnet_jit.engine import EngineConfig, Generation, InferenceEngine
from bitnet_jit.generation.decoder import Decoder
from bitnet_jit.problem import pages_for

LIMIT = 2.0
WARM_PIECES = 40  # of each stream before the long prompt comes
USUAL_PIECES = 20  # the last ones of them make the usual step
PROMPT = 32
LONG_NEW = 4
MAX_NEW = 4000  # of streams, which are cancelled in the end


class Stream:
    """A text that a thread reads, and when its pieces came."""

    def __init__(self, generation: Generation) -> None:
        self.generation, self.times = generation, []
        self.thread = threading.Thread(target=self.read)
        self.ended: BaseException | None = None
        self.thread.start()

    def read(self) -> None:
        """Note the time of each piece until the text ends or is cancelled."""
        try:
            for _ in self.generation:
                self.times.append(time.perf_counter())
        except Exception as error:
            self.ended = error

    def pauses(self, begin: float, end: float) -> list[float]:
        """Return the seconds between pieces, of every pause that lies within a time or reaches into it."""
        times = [*self.times]
        return [late - early for early, late in zip(times, times[1:], strict=False) if late >= begin and early <= end]


def stall(decoder: Decoder, options: Options, say: Callable[[str], object]) -> Figure:
    """Measure the pauses of running streams before and while a long prompt is read.

    The best turn counts, of those behind the first one, which is an engine's first step of each size; its ratio stands
    beside.

    Raises:
        RuntimeError: a stream ended before the prompt was read.
    """
    new = min(MAX_NEW, decoder.config.context_length - PROMPT)
    pages = options.streams * pages_for(PROMPT + new) + pages_for(options.long_prompt + LONG_NEW)
    with InferenceEngine(EngineConfig(max_running=options.streams + 1, num_pages=pages)) as engine:
        engine.add_model("model", decoder)
        first, *turns = [one_turn(engine, decoder, options, turn, say) for turn in range(1 + options.turns)]
    best = min(turns, key=lambda figure: figure.value)
    return replace(best, details=best.details | {"first_turn": first.value})


def one_turn(
    engine: InferenceEngine, decoder: Decoder, options: Options, turn: int, say: Callable[[str], object]
) -> Figure:
    """Measure once."""
    vocab, new = decoder.config.vocab_size, min(MAX_NEW, decoder.config.context_length - PROMPT)
    generator = torch.Generator().manual_seed(turn)
    rows = torch.randint(0, vocab, (options.streams, PROMPT), generator=generator).tolist()
    long = torch.randint(0, vocab, (options.long_prompt,), generator=generator).tolist()
    say(f"stall, turn {turn}: {options.streams} streams")
    streams = [Stream(engine.submit("model", row, new)) for row in rows]
    wait_until(lambda: min(len(stream.times) for stream in streams) >= WARM_PIECES, streams)
    early = min(stream.times[-USUAL_PIECES] for stream in streams)
    say(f"stall, turn {turn}: the long prompt")
    begin = time.perf_counter()
    first = engine.submit("model", long, LONG_NEW).result().first_token_s
    end = begin + first
    wait_until(lambda: all(stream.times[-1] > end for stream in streams), streams)  # what began before has ended
    for stream in streams:
        stream.generation.cancel()
    for stream in streams:
        stream.thread.join()
    usual = median(pause for stream in streams for pause in stream.pauses(early, begin))
    during = [pause for stream in streams for pause in stream.pauses(begin, end)]
    details = {
        "usual_ms": 1e3 * usual,
        "longest_ms": 1e3 * max(during),
        "median_during_ms": 1e3 * median(during),
        "first_token_s": first,
        "prompt_tokens": options.long_prompt,
        "streams": options.streams,
    }
    name = f"longest pause of {options.streams} streams / usual step, prompt of {options.long_prompt}"
    return Figure("stall", name, max(during) / usual, LIMIT, False, details)


def wait_until(is_so: Callable[[], bool], streams: list[Stream]) -> None:
    """Wait for a condition, while all streams run."""
    while not is_so():
        check_running(streams)
        time.sleep(0.005)


def check_running(streams: list[Stream]) -> None:
    """Raise RuntimeError where a stream has ended."""
    ended = [stream for stream in streams if not stream.thread.is_alive()]
    if ended:
        raise RuntimeError(f"{len(ended)} streams ended before the prompt was read: {ended[0].ended}")
