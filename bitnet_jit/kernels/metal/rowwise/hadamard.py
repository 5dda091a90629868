"""Hadamard rotations of rows, alone, or behind the row kernel, which leaves a norm or a gate in float32.

    hadamard                 y = H (signs * x), per run of `block` features
    inverse_hadamard         y = signs * (H x)
    rms_norm_hadamard        hadamard of a norm; add_rms_norm_hadamard, of a sum's norm
    silu_mul_hadamard        hadamard of silu(gate) * up

Stages run in the order that `reference/hadamard.py` fixes, and each sum is of two numbers.
"""

from bitnet_jit.kernels.choices import one_config, takes_all
from bitnet_jit.kernels.kernel import Config, Kernel
from bitnet_jit.kernels.metal.launch import SIMD, Bound, Launch, Scratch
from bitnet_jit.kernels.metal.rowwise.rows import ADD, PLAIN, SILU, Made, launch
from bitnet_jit.kernels.metal.source import Source
from bitnet_jit.problem import Problem

PER = 8  # features side by side in a thread
MIN_SIMDGROUPS = 4  # of a threadgroup
SOURCE = Source("hadamard", ("x", "signs"), ("y",), (), ("SIMDGROUPS", "LOG", "PER", "INVERSE", "SIGNED", "Y"))
INVERSE = "inverse_hadamard"
ALONE = ("hadamard", INVERSE)
BEHIND = {"rms_norm_hadamard": PLAIN, "add_rms_norm_hadamard": ADD, "silu_mul_hadamard": SILU}


def rotate(problem: Problem, rows: int, x: str, is_signed: bool) -> Launch:
    """Return the launch that rotates the rows of x."""
    per = min(PER, problem.block)
    simdgroups = max(MIN_SIMDGROUPS, problem.block // (per * SIMD))
    features = rows * problem.in_features
    return Launch(
        SOURCE,
        (x, "signs" if is_signed else None),
        ("y",),
        {
            "SIMDGROUPS": simdgroups,
            "LOG": problem.block.bit_length() - 1,
            "PER": per,
            "INVERSE": problem.op == INVERSE,
            "SIGNED": is_signed,
            "Y": problem.x_dtype,
        },
        (rows, problem.in_features),
        (-(-features // (per * SIMD * simdgroups)), 1, 1),
        SIMD * simdgroups,
    )


def bind(problem: Problem, config: Config) -> Bound:
    """Bind a rotation."""
    return Bound(lambda rows: (rotate(problem, rows, "x", bool(problem.bias)),))


def bind_behind(problem: Problem, config: Config) -> Bound:
    """Bind a rotation behind the row kernel."""
    made = Made("made", None, "float32", problem.in_features)

    def launches(rows: int) -> tuple[Launch, ...]:
        first = launch(problem, rows, BEHIND[problem.op], bool(problem.bias), made)
        return first, rotate(problem, rows, made.y, is_signed=True)

    def scratch(rows: int) -> Scratch:
        return {made.y: ((rows, problem.in_features), made.dtype)}

    return Bound(launches, scratch)


def kernels(backend: str) -> tuple[Kernel, ...]:
    """Return the kernels of the rotations."""
    return tuple(
        Kernel(f"{backend}.{op}", op, bound, one_config, takes_all)
        for ops, bound in ((ALONE, bind), (tuple(BEHIND), bind_behind))
        for op in ops
    )
