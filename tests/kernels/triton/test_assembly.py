"""The inline assembly, by instruction: the interpreter cannot run it, and ptxas only checks that it is well formed.

Each string is executed here on all bytes, by the PTX manual's words on its instructions.
"""

import numpy as np
import pytest

pytest.importorskip("triton", reason="the package triton is not installed")

from triton_calls import laid

from bitnet_jit.kernels.triton.device import unpack

MASK = 0xFFFFFFFF


def prmt(a, b, selector):
    """Pick four bytes of b and a by four nibbles; no selector here asks for a sign."""
    word = 0
    for place in range(4):
        nibble = selector >> 4 * place & 0xF
        assert nibble < 8
        word |= ((b << 32 | a) >> 8 * nibble & 0xFF) << 8 * place
    return word


INSTRUCTIONS = {
    "mov.b32": lambda a: a,
    "shl.b32": lambda a, count: a << count,
    "shr.u32": lambda a, count: a >> count,
    "shf.l.wrap.b32": lambda low, high, count: ((high << 32 | low) << (count & 31)) >> 32,
    "and.b32": lambda a, b: a & b,
    "xor.b32": lambda a, b: a ^ b,
    "add.u32": lambda a, b: a + b,
    "mul.lo.u32": lambda a, b: a * b,
    "prmt.b32": prmt,
}


def execute(text, outputs, word):
    """Return the output registers of an inline assembly with one input."""
    registers = {f"${outputs}": word}
    for line in text.strip("{ }").split(";"):
        name, _, operands = line.strip().partition(" ")
        if name in ("", ".reg"):
            continue
        target, *sources = (operand.strip() for operand in operands.split(","))
        values = [registers[source] if source in registers else int(source, 0) for source in sources]
        registers[target] = INSTRUCTIONS[name](*values) & MASK
    return [registers[f"${number}"] for number in range(outputs)]


def packed_words(layout):
    """Return every byte that a layout can hold, four per word, and the weights (planes, bytes) in them."""
    planes = 4 if layout == "i2/planes" else 5
    weights = np.indices((3,) * planes).reshape(planes, -1).astype(np.int8) - 1
    padding = -weights.shape[1] % 64  # to whole chunks
    weights = np.pad(weights, ((0, 0), (0, padding)))
    return laid(weights.reshape(1, -1), layout).view(np.uint32)[0], weights


def run(text, outputs, words, dtype):
    outcomes = [execute(text, outputs, int(word)) for word in words]
    return np.array(outcomes, np.uint32).reshape(-1).view(dtype)


@pytest.mark.parametrize("plane", range(4))
def test_fields_become_bytes_of_64_times_the_weight(plane):
    words, weights = packed_words("i2/planes")
    assert np.array_equal(run(unpack.UNPACK.value[plane], 1, words, np.int8), 64 * weights[plane])


@pytest.mark.parametrize("plane", range(4))
def test_fields_become_halves_of_half_the_weight(plane):
    words, weights = packed_words("i2/planes")
    assert np.array_equal(run(unpack.FLOAT16.value[plane], 2, words, np.float16), weights[plane] / 2)
    bits = run(unpack.BFLOAT16.value[plane], 2, words, np.uint16).astype(np.uint32) << 16
    assert np.array_equal(bits.view(np.float32), weights[plane] / 2)


@pytest.mark.parametrize("plane", range(5))
def test_digits_become_bytes_of_the_weight(plane):
    words, weights = packed_words("t5/planes")
    assert np.array_equal(run(unpack.DIGIT.value[plane], 1, words, np.int8), weights[plane])
