"""`delta_net` as two launches: inputs.py for all tokens side by side, then recurrence.py.

There is one config: tiles set the order of sums, and that has to be the same for prompts and single tokens.
"""

from collections.abc import Mapping
from math import prod

import triton

from bitnet_jit.kernels.kernel import Config, Kernel
from bitnet_jit.kernels.triton.delta_net.inputs import inputs_kernel
from bitnet_jit.kernels.triton.delta_net.recurrence import COLUMNS, WARPS, recurrence_kernel
from bitnet_jit.kernels.triton.device import target
from bitnet_jit.kernels.triton.device.launch import Bound, Launch, Scratch, Varying
from bitnet_jit.problem import Problem

NUMBERS = 512  # of a token that a program convolves
KEPT = 1024  # numbers of a sequence's history that a program writes
INPUTS_WARPS = 4
MIN_KEYS = 32  # of a tile of a state
BROUGHT = ("q", "k", "v", "products", "gates")  # what lies between the launches


def bind(problem: Problem, config: Config) -> Varying:
    """Bind the op: launches by the shapes of a call's arguments."""

    def of(shapes: Mapping[str, tuple[int, ...]]) -> Bound:
        tokens, sequences, taps = prod(shapes["positions"]), shapes["slots"][0], shapes["conv_weight"][1]
        launches = inputs(problem, tokens, sequences, taps), recurrence(problem, sequences, taps)
        return Bound(lambda rows: launches, lambda rows: brought(problem, tokens))

    return Varying(of)


def keys_block(problem: Problem) -> int:
    """Return the rows of a tile of a state."""
    return max(MIN_KEYS, int(triton.next_power_of_2(problem.head_dim)))


def inputs(problem: Problem, tokens: int, sequences: int, taps: int) -> Launch:
    """Return the launch of inputs.py."""
    block = keys_block(problem)
    block_heads = min(int(triton.next_power_of_2(problem.kv_heads)), max(1, NUMBERS // block))
    constants = {
        "R": sequences,
        "HEADS": problem.heads,
        "KV": problem.kv_heads,
        "D": problem.head_dim,
        "N": problem.out_features,
        "TAPS": taps,
        "SCALE": problem.head_dim**-0.5,
        "BLOCK_D": block,
        "BLOCK_KV": block_heads,
        "BLOCK_N": NUMBERS,
        "BLOCK_HEADS": int(triton.next_power_of_2(problem.heads)),
        "PDL": target.supports_pdl(problem.gpu),
    }
    parts = triton.cdiv(problem.kv_heads, block_heads) + triton.cdiv(problem.out_features, NUMBERS) + 1
    weights = ("beta_alpha", "conv_weight", "decay", "dt_bias")
    operands = ("mixed", "row_stride", *weights, "history", "positions", "starts", "slots", *BROUGHT, "y")
    return Launch(inputs_kernel, tokens * parts, operands, constants, INPUTS_WARPS)


def recurrence(problem: Problem, sequences: int, taps: int) -> Launch:
    """Return the launch of recurrence.py."""
    dv = problem.out_features // problem.heads
    tiles = triton.cdiv(dv, COLUMNS.value)
    constants = {
        "R": sequences,
        "DV": dv,
        "HEADS": problem.heads,
        "KV": problem.kv_heads,
        "D": problem.head_dim,
        "C": problem.in_features,
        "TAPS": taps,
        "BLOCK_D": keys_block(problem),
        "BLOCK_C": KEPT,
        "TILES": tiles,
        "PDL": target.supports_pdl(problem.gpu),
    }
    programs = sequences * (problem.heads * tiles + triton.cdiv(problem.in_features, KEPT))
    operands = ("mixed", "row_stride", "history", "states", "positions", "starts", "slots", *BROUGHT, "y")
    return Launch(recurrence_kernel, programs, operands, constants, WARPS.value, fuses=True)


def brought(problem: Problem, tokens: int) -> Scratch:
    """Return the scratch tensors between both launches."""
    keys = tokens * problem.kv_heads
    sizes = (*(keys * keys_block(problem),) * 2, tokens * problem.out_features, keys, 2 * tokens * problem.heads)
    return {name: (size, "float32") for name, size in zip(BROUGHT, sizes, strict=True)}


def configs(problem: Problem) -> tuple[Config, ...]:
    """Return None alone: there is nothing to choose."""
    return (None,)


def unsupported_reason(problem: Problem) -> str | None:
    """Return why these kernels cannot run a problem, or None."""
    return target.unsupported_reason(problem.gpu)


KERNELS = (Kernel("triton.delta_net", "delta_net", bind, configs, unsupported_reason),)
