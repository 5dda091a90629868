"""The engine against the runner alone: tokens per second of a full batch by `submit` and by `generate`."""

import time
from collections.abc import Callable

import torch

from benchmarks.suites.engine_text.figure import Figure
from benchmarks.suites.engine_text.options import Options
from bitnet_jit.engine import EngineConfig, InferenceEngine
from bitnet_jit.generation.decoder import Decoder
from bitnet_jit.problem import pages_for

LIMITS = {"cpu": 0.97}
GPU_LIMIT = 0.90


def compare(decoder: Decoder, options: Options, batch: int, say: Callable[[str], object]) -> Figure:
    """Measure a batch both ways in turn, and check that the texts are the same.

    Raises:
        RuntimeError: a text differs.
    """
    generator = torch.Generator().manual_seed(batch)
    ids = torch.randint(0, decoder.config.vocab_size, (batch, options.prompt), generator=generator)
    rows, new = ids.tolist(), options.steps
    pages = batch * pages_for(options.prompt + new)
    seconds: dict[str, list[float]] = {"generate": [], "engine": []}
    with InferenceEngine(EngineConfig(max_running=batch, num_pages=pages, prefix_cache=False)) as engine:
        engine.add_model("model", decoder)

        def through_engine() -> list[list[int]]:
            return [handle.result().tokens for handle in [engine.submit("model", row, new) for row in rows]]

        def alone() -> list[list[int]]:
            return decoder.generate(ids.to(decoder.device), max_new_tokens=new)[:, options.prompt :].tolist()

        texts = {}
        for turn in range(1 + options.turns):  # the first one records steps and chooses kernels
            for name, write in (("generate", alone), ("engine", through_engine)):
                say(f"batch {batch}, turn {turn}: {name}")
                start = time.perf_counter()
                texts[name] = write()
                seconds[name].append(time.perf_counter() - start)
    if texts["engine"] != texts["generate"]:
        raise RuntimeError(f"batch {batch}: the engine writes other texts than generate")
    best = {name: batch * new / min(times[1:]) for name, times in seconds.items()}
    details = {f"{name}_tokens_per_s": rate for name, rate in best.items()} | {"batch": batch}
    limit = LIMITS.get(torch.device(options.device).type, GPU_LIMIT)
    return Figure("bare", f"engine / generate, batch {batch}", best["engine"] / best["generate"], limit, True, details)
