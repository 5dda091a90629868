"""Arrays that lie otherwise: with gaps, turned, made on another stream, or too long to be added up in float32."""

import mlx.core as mx
import numpy as np
import pytest

import bitnet_jit.mlx as bjm
from bitnet_jit.kernels import registry
from bitnet_jit.kernels.mlx.metal import KERNELS
from bitnet_jit.problem import Problem

W_Q = np.random.default_rng(0).standard_normal((5, 128)).astype(np.float32)


def layer():
    """Return a packed layer's arrays."""
    return bjm.quantize_weight(mx.array(W_Q))


@pytest.mark.parametrize(
    "view",
    [
        lambda wide: wide[:, ::2],
        lambda wide: wide[:, 128:],
        lambda wide: wide[::2, :128],
        lambda wide: mx.contiguous(wide[:, :128].T).T,
        lambda wide: wide[None, :, 3:131],
        lambda wide: mx.broadcast_to(wide[:1, :128], (4, 128)),
    ],
)
def test_an_array_with_gaps_is_read_as_a_copy_of_it(view):
    x = view(mx.random.normal((4, 256)))
    y = bjm.bit_linear(x, *layer(), in_features=128)
    assert mx.array_equal(y, bjm.bit_linear(mx.array(np.array(x)), *layer(), in_features=128)).item()


def test_an_array_of_another_stream_is_waited_for():
    with mx.stream(mx.new_stream(mx.cpu)):
        x = mx.random.normal((64, 128)) @ mx.random.normal((128, 128))
        weight = layer()
    y = bjm.bit_linear(x, *weight, in_features=128)
    assert mx.array_equal(y, bjm.bit_linear(mx.array(np.array(x)), *layer(), in_features=128)).item()


@pytest.mark.parametrize("kernel", [k for k in KERNELS if k.op == "ternary_matmul"], ids=lambda kernel: kernel.name)
def test_rows_that_float32_cannot_add_up_are_refused_in_words(kernel, monkeypatch):
    monkeypatch.setattr("bitnet_jit.kernels.mlx.metal.unsupported_reason", lambda: None)
    layout = registry.preferred_layout("i2", "mlx").name
    problem = Problem("ternary_matmul", "mlx", 1, 8, 2**17, layout=layout, activation="a8", x_dtype="int8")
    assert kernel.unsupported_reason(problem) == "adds codes in float32, exactly up to K = 131071, got K = 131072"
