"""The binding to arrays and to torch tensors: leading dimensions, gaps, and arguments that an op writes into."""

import mlx.core as mx
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mlx_calls import bound_call, laid, to_numpy

from bitnet_jit import reference
from bitnet_jit.errors import UnsupportedProblem
from bitnet_jit.kernels import registry
from bitnet_jit.kernels.mlx.metal import KERNELS as METAL
from bitnet_jit.kernels.mlx.quantized import KERNELS as QUANTIZED
from bitnet_jit.ops.calls import make_call
from bitnet_jit.ops.op import OPS
from bitnet_jit.problem import Problem

LINEAR = Problem("bit_linear", "mlx", 4, 3, 33, "i2/words", "a8", scale="tensor")
LEADING = st.sampled_from(((), (1,), (3,), (2, 2), (1, 3, 1), (0,), (2, 0)))


def layer(seed=0):
    """Return codes (3, 33), the weight of a layer and its scale."""
    w_q = np.random.default_rng(seed).integers(-1, 2, (3, 33)).astype(np.int8)
    return w_q, laid(w_q, "i2/words"), mx.array(0.5)


@given(leading=LEADING, name=st.sampled_from(("mlx.plain_bit_linear", "mlx.quantized_bit_linear")))
def test_leading_dimensions_are_kept(leading, name):
    x, (w_q, packed, scale) = np.random.default_rng(1).standard_normal((*leading, 33)).astype(np.float32), layer()
    call = bound_call(name, LINEAR, leading)
    expected = reference.bit_linear(x.reshape(-1, 33), w_q, 0.5).reshape(*leading, 3)
    y = call(mx.array(x), packed, scale, None)
    assert isinstance(y, mx.array)
    np.testing.assert_array_equal(to_numpy(y), expected)
    tensors = torch.from_numpy(x), torch.from_numpy(np.array(packed)), torch.tensor(0.5), None
    y = call(*tensors)
    assert isinstance(y, torch.Tensor)
    np.testing.assert_array_equal(y.numpy(), expected)


def test_arrays_with_gaps_and_in_another_order_are_read_as_they_count():
    wide = np.random.default_rng(2).standard_normal((66, 4)).astype(np.float32)
    w_q, packed, scale = layer()
    expected = reference.bit_linear(wide.T[:, ::2], w_q, 0.5)
    for name in ("mlx.plain_bit_linear", "mlx.quantized_bit_linear"):
        call = bound_call(name, LINEAR, (4,))
        np.testing.assert_array_equal(to_numpy(call(mx.array(wide).T[:, ::2], packed, scale, None)), expected)
        parted = torch.from_numpy(wide).T[:, ::2]
        y = call(parted, torch.from_numpy(np.array(packed)), torch.tensor(0.5), None)
        np.testing.assert_array_equal(y.numpy(), expected)


@pytest.mark.parametrize("leading", [(5,), (1, 5)])
def test_what_an_op_writes_into_is_written_in_tensors_and_given_back_as_arrays(leading):
    problem = Problem("greedy", "mlx", 8, 7, 7, bias="int32")
    call = bound_call("mlx.plain_greedy", problem, leading)
    logits = torch.randn(*leading, 7, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        tokens, positions = torch.zeros(leading, dtype=torch.int64), torch.full(leading, 3, dtype=torch.int32)
    outputs = call(logits, tokens, positions)
    assert len(outputs) == 2
    assert torch.equal(tokens, logits.argmax(-1))
    assert torch.equal(positions, torch.full(leading, 4, dtype=torch.int32))
    arrays = call(mx.array(logits.numpy()), mx.zeros(leading, dtype=mx.int64), mx.full(leading, 3, dtype=mx.int32))
    assert [array.shape for array in arrays] == [leading] * 4
    assert arrays[2].tolist() == tokens.tolist()
    assert arrays[3].tolist() == positions.tolist()


def test_kernels_from_source_refuse_in_words_where_there_is_no_gpu():
    reasons = {kernel.op: kernel.unsupported_reason(LINEAR) for kernel in METAL}
    assert set(reasons.values()) == {f"needs a GPU as MLX's default device, which is {mx.default_device()}"}


def test_sums_that_float32_cannot_hold_are_refused_in_words():
    words = "adds codes in float32, exactly up to K = 131071, got K = 131072"
    large = Problem("bit_linear", "mlx", 1, 3, 2**17, "i2/words", "a8", scale="tensor")
    (kernel,) = [kernel for kernel in QUANTIZED if kernel.name == "mlx.quantized_bit_linear"]
    assert kernel.unsupported_reason(large) == words
    fitting, refusals = registry.candidates(large)
    assert fitting[0].name == "mlx.plain_bit_linear"  # which adds up in pieces
    assert refusals["mlx.quantized_bit_linear"] == words


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"layout": "i2"}, "reads the layout i2/words, not 'i2'"),
        ({"activation": "a16"}, "serves activation='a8' and 'a8g'"),
        ({"activation": "a8g", "scale": "group", "group_size": 32}, "serves activation='a8' and 'a16'"),
        ({"scale": "group", "group_size": 48}, "takes groups of 32, 64, 128 inputs, not of 48"),
    ],
)
def test_what_the_quantized_product_does_not_take(changes, words):
    from dataclasses import replace

    (kernel,) = [kernel for kernel in QUANTIZED if kernel.name == "mlx.quantized_bit_linear"]
    assert kernel.unsupported_reason(replace(LINEAR, **changes)) == words


def test_an_absent_mlx_is_told_in_words(monkeypatch):
    find = registry.importlib.util.find_spec
    monkeypatch.setattr(registry.importlib.util, "find_spec", lambda name: None if name == "mlx" else find(name))
    monkeypatch.delitem(registry.BACKENDS, "torch")
    registry.forget()
    try:
        with pytest.raises(UnsupportedProblem, match=r"mlx: the package mlx is not installed \(pip install mlx\)"):
            make_call(LINEAR, OPS["bit_linear"].spec.operands_of(LINEAR, (4,)), torch.device("cpu"))
    finally:
        monkeypatch.undo()
        registry.forget()
