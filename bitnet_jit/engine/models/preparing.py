"""What `OptimizationLevel.AGGRESSIVE` does with a model before its first request: tuning, and a few short texts."""

from collections.abc import Sequence

from torch import nn

from bitnet_jit.devices.kinds import kind_of
from bitnet_jit.engine.options.config import EngineConfig
from bitnet_jit.engine.text.asking import make_request
from bitnet_jit.engine.text.replica import Replica
from bitnet_jit.engine.text.replicas import ReplicaGroup
from bitnet_jit.generation.decoder import Decoder
from bitnet_jit.generation.sampling import Sampling
from bitnet_jit.nn.packed_bit_linear import PackedBitLinear
from bitnet_jit.runner.decode import MAX_ROWS

PROMPT_TOKENS, NEW_TOKENS = 4, 16  # enough for steps of one size in a row, which are captured then


def tune(modules: Sequence[nn.Module], config: EngineConfig) -> None:
    """Tune modules that have packed layers for the numbers of rows that they will see; others are left alone.

    Each takes `config.tuning_seconds` at most. What was found before, here or elsewhere, is not looked for again.
    """
    from bitnet_jit.tuning.autotune import autotune  # with the processes that compile

    for module in modules:
        packed = next((layer for layer in module.modules() if isinstance(layer, PackedBitLinear)), None)
        if packed is not None and not packed.w_packed.is_meta:
            rows = rows_to_tune(config, kind_of(packed.w_packed.device).prompt_tokens)
            autotune(module, rows, budget_seconds=config.tuning_seconds, progress=False)


def rows_to_tune(config: EngineConfig, prompt_tokens: int) -> list[int]:
    """Return numbers of rows: one, powers of two up to a full batch, and a step that reads a prompt.

    >>> rows_to_tune(EngineConfig(max_running=6, step_tokens=256), 4096)
    [1, 2, 4, 8, 256]
    """
    batch = max(config.max_running, config.batch_rows or 1)
    rows = [1 << exponent for exponent in range((batch - 1).bit_length() + 1)]
    return sorted({*rows, config.step_tokens or prompt_tokens})


def warm_up(decoder: Decoder, replica: Replica | ReplicaGroup, config: EngineConfig) -> None:
    """Write short texts, as many at a time as will be later, so that kernels are compiled and steps captured.

    Of several replicas each gets about as many: requests go where the fewest wait.
    """
    shape = decoder.config
    length = max(1, min(PROMPT_TOKENS, shape.context_length - NEW_TOKENS))
    limit = min(NEW_TOKENS, shape.context_length - length)
    options = Sampling(temperature=1.0, seed=0, banned_token_ids=shape.eos_ids)
    for texts in sizes_to_capture(config, replica, kind_of(decoder.device).capture is not None):
        requests = [
            make_request(decoder, [0] * length, limit, options, ()) for _ in range(texts * len(replica.members))
        ]
        for request in requests:
            replica.submit(request)
        for request in requests:
            request.generation.result()


def sizes_to_capture(config: EngineConfig, replica: Replica | ReplicaGroup, by_graph: bool) -> list[int]:
    """Return how many texts at a time are tried: powers of two where steps are graphs of such sizes, else one."""
    most = min(config.max_running, config.max_waiting // len(replica.members) or 1, replica.num_pages, MAX_ROWS)
    return [1 << exponent for exponent in range(most.bit_length())] if by_graph else [1]
