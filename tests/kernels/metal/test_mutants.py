"""Deliberately broken kernels are all caught: by a wrong result, or by the harness."""

from functools import cache

import numpy as np
import pytest
from metal_calls import KERNELS, call, needs_clang, packed, problem_of
from metal_host.host import HostFault

from bitnet_jit import reference
from bitnet_jit.kernels.metal import source
from bitnet_jit.kernels.metal.linear import few, many
from bitnet_jit.kernels.mps import launch

pytestmark = needs_clang
FEW, FUSED = few.Config(0, 2, 4, 2, 4), few.Config(1, 2, 4, 1, 4)
BYTES, MANY = few.Config(2, 2, 4, 1, 2), many.Config(2, 2, 1, 2)
ROWS, OUTPUTS, INPUTS = 2, 37, 1300
MUTANTS = {  # what is wrong: the kernel, its config, the file, the text, and what stands in its place
    "an output too many": ("few_bit_linear", FEW, "few.metal", "n < outputs)", "n <= outputs)"),
    "a wrong stride of weights": (
        "few_bit_linear",
        FEW,
        "few.metal",
        "* row_words + first);",
        "* (row_words - 1) + first);",
    ),
    "lanes that overlap": ("few_bit_linear", FEW, "few.metal", "first += 32 * WORDS", "first += 16 * WORDS"),
    "rows beyond the last": ("many_bit_linear", MANY, "many.metal", "min(m0 + tile_row, rows - 1)", "(m0 + tile_row)"),
    "no barrier behind a write": (
        "fused_bit_linear",
        FUSED,
        "reduce.h",
        "= mine;\n  BARRIER();\n  for",
        "= mine;\n  for",
    ),
    "no barrier behind a read": (
        "fused_bit_linear",
        FUSED,
        "reduce.h",
        "max(mine, shared[s]);\n  BARRIER();",
        "max(mine, shared[s]);",
    ),
    "a tile that is read early": (
        "many_bit_linear",
        MANY,
        "many.metal",
        "  BARRIER();\n  for (int k = 0",
        "  for (int k = 0",
    ),
    "a tile that is written early": ("many_bit_linear", MANY, "many.metal", "k0 += BK) {\n  BARRIER();", "k0 += BK) {"),
    "sums that are read early": (
        *("many_bit_linear", MANY, "many.metal"),
        *("simdgroup);\n    SIMD_BARRIER();", "simdgroup);"),
    ),
    "simdgroups that share a place": ("many_bit_linear", MANY, "many.metal", "sums_tile + 64 * simdgroup", "sums_tile"),
    "a barrier that some skip": (
        *("many_bit_linear", MANY, "many.metal"),
        *("  BARRIER();\n  for (int k = 0", "  if (me < 32) BARRIER();\n  for (int k = 0"),
    ),
    "a field beyond the mantissa": ("fused_bit_linear", FUSED, "codes.h", "STAY = 5", "STAY = 6"),
    "a mask of three bits": ("few_bit_linear", BYTES, "codes.h", "0x03030303u", "0x07070707u"),
    "another order of products": (
        *("few_bit_linear", FEW, "few.metal"),
        *("mul_rn(float(sum), mul_rn(by_row, by_output))", "mul_rn(mul_rn(float(sum), by_row), by_output)"),
    ),
    "codes cut off, not rounded": (
        "few_bit_linear",
        FEW,
        "quantize.h",
        "rint(mul_rn(x, inverse))",
        "mul_rn(x, inverse)",
    ),
    "an input too few": ("few_bit_linear", FEW, "rows.metal", "sizes[0] - begin)", "sizes[0] - begin - 1)"),
    "padding that is not filled": ("few_bit_linear", FEW, "rows.metal", "thread_; k < end;", "thread_; k < size;"),
}


def mutated(file, old, new):
    """Return what reads the sources, one of them with other text."""
    original = source.text_of.__wrapped__

    @cache
    def text_of(name):
        text = original(name)
        if name != f"sources/{file}":
            return text
        assert text.count(old) == 1, f"{file} has {old!r} {text.count(old)} times"
        return text.replace(old, new)

    return text_of


def answers_right(name, config):
    """Return whether a kernel answers right, five times."""
    rng = np.random.default_rng(0)
    x, w_q = (
        rng.standard_normal((ROWS, INPUTS)).astype(np.float32),
        rng.integers(-1, 2, (OUTPUTS, INPUTS)).astype(np.int8),
    )
    x[1] *= 7
    w_scale = (rng.random(OUTPUTS) + 0.1).astype(np.float32)
    problem = problem_of("bit_linear", (ROWS, OUTPUTS, INPUTS), activation="a8", scale="row")
    expected = reference.bit_linear(x, w_q, w_scale)
    return all(
        np.array_equal(call(KERNELS[name], problem, config, x, packed(w_q), w_scale, None), expected) for _ in range(5)
    )


@pytest.fixture(autouse=True)
def _compiled_anew():
    launch.function_of.cache_clear()
    yield
    launch.function_of.cache_clear()


@pytest.mark.parametrize(("name", "config"), dict.fromkeys((name, config) for name, config, *_ in MUTANTS.values()))
def test_kernels_as_they_are_answer_right(name, config):
    assert answers_right(name, config)


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_broken_kernel_is_caught(mutant, monkeypatch):
    name, config, *change = MUTANTS[mutant]
    monkeypatch.setattr(source, "text_of", mutated(*change))
    try:
        right = answers_right(name, config)
    except HostFault:
        return
    assert not right
