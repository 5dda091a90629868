"""Layers of MLX: outputs are the contract, gradients go straight through, wrong arguments are told in words."""

import os
from importlib import metadata

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metal_host.host import find_compiler
from mlx import nn

import bitnet_jit.mlx as bjm
from bitnet_jit import InvalidInput, reference
from bitnet_jit.errors import MissingPackage
from bitnet_jit.mlx import version
from bitnet_jit.mlx.calls import CALLS
from bitnet_jit.mlx.ops import lay, linear_function
from bitnet_jit.ops.calls import DISPATCHER
from bitnet_jit.packing import FORMATS

SHAPES = st.tuples(st.sampled_from((1, 3, 17)), st.sampled_from((1, 3, 33)), st.sampled_from((1, 17, 33, 131)))


def draw(shape, seed=0):
    """Return x (M, K), weight (N, K), bias (N,) and dy (M, N), float32."""
    rng, (m, n, k) = np.random.default_rng(seed), shape
    return [rng.standard_normal(size).astype(np.float32) for size in ((m, k), (n, k), (n,), (m, n))]


@given(shape=SHAPES, with_bias=st.booleans(), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=10)
def test_a_layer_in_training_is_the_contract_and_its_gradients_go_straight_through(shape, with_bias, seed):
    x, weight, bias, dy = draw(shape, seed)
    layer = bjm.BitLinear(shape[2], shape[1], with_bias)
    layer.weight = mx.array(weight)
    if with_bias:
        layer.bias = mx.array(bias)
    w_q, w_scale = reference.quantize_weight(weight)
    y = np.array(layer(mx.array(x)))
    np.testing.assert_array_equal(y, reference.bit_linear(x, w_q, w_scale, bias if with_bias else None))
    packed = layer.pack()
    np.testing.assert_array_equal(np.array(packed(mx.array(x))), y)
    np.testing.assert_array_equal(np.array(packed.eval()(mx.array(x))), y)

    def loss(parameters, x):
        layer.update(parameters)
        return (layer(x) * mx.array(dy)).sum()

    gradients, dx = mx.grad(loss, argnums=(0, 1))(layer.trainable_parameters(), mx.array(x))
    x_q, x_scale = reference.quantize_activation(x)
    w, x_hat = w_q * w_scale, x_q * x_scale[:, None]
    near = {"rtol": 1e-4, "atol": 1e-4}
    np.testing.assert_allclose(np.array(dx), dy @ w, **near)
    np.testing.assert_allclose(np.array(gradients["weight"]), dy.T @ x_hat, **near)
    if with_bias:
        np.testing.assert_allclose(np.array(gradients["bias"]), dy.sum(0), **near)
    dx = mx.grad(lambda x: (packed.train()(x) * mx.array(dy)).sum())(mx.array(x))
    np.testing.assert_allclose(np.array(dx), dy @ w, **near)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_halves_and_leading_dimensions(dtype):
    x, weight, _, dy = draw((6, 5, 33))
    layer = bjm.BitLinear(33, 5)
    layer.weight = mx.array(weight)
    wide = mx.array(x).astype(dtype)
    y = layer(wide.reshape(2, 3, 33))
    assert (y.shape, y.dtype) == ((2, 3, 5), dtype)
    expected = reference.bit_linear(np.array(wide.astype(mx.float32)), *reference.quantize_weight(weight))
    bias = np.array(layer.bias)
    assert mx.array_equal(y.reshape(6, 5), mx.array(expected + bias).astype(dtype)).item()
    dx = mx.grad(lambda x: (layer(x) * mx.array(dy).astype(dtype)).sum())(wide)
    assert dx.dtype == dtype


@given(shape=SHAPES, seed=st.integers(0, 2**32 - 1))
@settings(max_examples=10)
def test_norms_and_their_gradients(shape, seed):
    x, _, _, _ = draw(shape, seed)
    dy = np.random.default_rng(seed + 1).standard_normal(x.shape).astype(np.float32)
    norm = bjm.RMSNorm(shape[2], 1e-5)
    norm.weight = mx.linspace(-2, 2, shape[2])
    weight = np.array(norm.weight)
    exact = reference.rms_norm_float64(x, weight, 1e-5)
    np.testing.assert_allclose(np.array(norm(mx.array(x))), exact, rtol=1e-4, atol=1e-5)

    def loss(parameters, x):
        norm.update(parameters)
        return (norm(x) * mx.array(dy)).sum()

    gradients, dx = mx.grad(loss, argnums=(0, 1))(norm.trainable_parameters(), mx.array(x))
    right_dx, right_dw = reference.rms_norm_gradients_float64(dy, x, weight, 1e-5)
    np.testing.assert_allclose(np.array(dx), right_dx, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(np.array(gradients["weight"]), right_dw, rtol=1e-3, atol=1e-3)


def test_a_small_model_learns_and_is_packed():
    from mlx import optimizers

    mx.random.seed(0)
    model = bjm.convert(nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 4)))
    x = mx.random.normal((128, 16))
    target = mx.argmax(x[:, :4], axis=1)
    optimizer = optimizers.Adam(learning_rate=1e-2)
    step = nn.value_and_grad(model, lambda: nn.losses.cross_entropy(model(x), target).mean())
    losses = []
    for _ in range(60):
        loss, gradients = step()
        optimizer.update(model, gradients)
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    y = model(x)
    assert mx.array_equal(bjm.pack(model)(x), y).item()
    assert not model.trainable_parameters()["layers"][0]


def test_convert_takes_patterns_and_leaves_heads():
    class Decoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.lm_head = nn.Linear(8, 4), nn.Linear(4, 8)

    model = bjm.convert(Decoder())
    assert isinstance(model.up, bjm.BitLinear)
    assert type(model.lm_head) is nn.Linear
    with pytest.raises(InvalidInput, match="the pattern 'down' matches no"):
        bjm.convert(Decoder(), include=["down"])
    with pytest.raises(InvalidInput, match=r"model: no mlx\.nn\.Linear of ReLU is left, out of 0"):
        bjm.convert(nn.ReLU())
    with pytest.raises(InvalidInput, match="expected modules of ReLU that are BitLinear, found none"):
        bjm.pack(nn.ReLU())


def test_canonical_weights_are_laid():
    w_q = np.random.default_rng(0).integers(-1, 2, (3, 33)).astype(np.int8)
    x = np.random.default_rng(1).standard_normal((2, 33)).astype(np.float32)
    packed = lay(mx.array(FORMATS["i2"].pack(w_q)), 3, 33)
    scale = np.linspace(0.5, 1.5, 6, dtype=np.float32).reshape(3, 2)
    for activation in ("a8", "a16", "a8g"):
        layer = bjm.PackedBitLinear(packed, mx.array(scale), in_features=33, group_size=32, activation=activation)
        exact, _ = reference.bit_linear_a16_float64(x, w_q, scale, group_size=32)
        np.testing.assert_allclose(np.array(layer(mx.array(x))), exact, atol=0.1)


LAYER = (mx.zeros((3, 32), dtype=mx.uint8), mx.array(1.0))


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (
            lambda: bjm.bit_linear(mx.ones((2, 5)), *LAYER, in_features=4),
            r"x: expected float32, bfloat16, float16 \(\.\.\., 4\), got torch\.float32 \(2, 5\)",
        ),
        (lambda: bjm.bit_linear(mx.ones((2, 4), dtype=mx.int8), *LAYER, in_features=4), "x: expected float32"),
        (lambda: bjm.bit_linear(np.ones((2, 4)), *LAYER, in_features=4), "x: expected an array of MLX, got ndarray"),
        (lambda: bjm.bit_linear(mx.ones(4), *LAYER, in_features=2**18 + 1), "in_features: expected a whole number"),
        (lambda: bjm.bit_linear(mx.ones(4), *LAYER, in_features=4, activation="a4"), "activation: expected one of"),
        (lambda: bjm.call("no_such_op"), "op: expected one of"),
        (lambda: bjm.call("rms_norm", mx.ones(4)), "rms_norm: expected 3 arguments, as in rms_norm"),
        (
            lambda: bjm.call("rms_norm", mx.ones(4), mx.ones(3), 1e-5),
            r"weight: expected float32, bfloat16, float16 \(4,\)",
        ),
        (lambda: bjm.call("rms_norm", mx.ones(4), mx.ones(4), [1.0]), r"eps: expected a finite number"),
        (
            lambda: bjm.call("rms_norm", mx.ones(4, dtype=mx.complex64), mx.ones(4), 1.0),
            r"x: expected one of float32.*, got mlx\.core\.complex64",
        ),
        (lambda: bjm.BitLinear(2**18 + 1, 1), "in_features: expected 1 to 262144, got 262145"),
        (lambda: bjm.PackedBitLinear(*LAYER, in_features=200), r"w_packed: expected uint8 \(3, 64\) for 3 x 200"),
        (lambda: bjm.PackedBitLinear(LAYER[0], mx.ones(2), in_features=4), r"w_scale: expected float32 \(3,\)"),
        (lambda: bjm.PackedBitLinear(*LAYER, mx.ones(2), in_features=4), r"bias: expected floating point \(3,\)"),
        (lambda: bjm.PackedBitLinear(LAYER[0], 1.0, in_features=4), "w_scale: expected an array of MLX, got float"),
        (lambda: bjm.patch(nn.Linear(2, 2)), "expected modules of Linear that are mlx-lm's BitLinear"),
        (lambda: bjm.patch(nn.Linear(2, 2), "a4"), "activation: expected one of a8, a16, a8g, got 'a4'"),
    ],
)
def test_wrong_arguments_are_told_in_words(run, words):
    with pytest.raises(InvalidInput, match=words):
        run()


def test_float64_is_refused_in_words():
    with (
        mx.stream(mx.cpu),
        pytest.raises(InvalidInput, match=r"x: expected float32, bfloat16, float16 .* got torch\.float64"),
    ):
        bjm.rms_norm(mx.ones(4, dtype=mx.float64), mx.ones(4), 1e-5)


def test_long_rows_add_up_exactly():
    in_features = 2**17
    x = mx.full((1, in_features), 3.0)
    w_packed, w_scale = bjm.quantize_weight(mx.ones((2, in_features)))
    y = bjm.bit_linear(x, w_packed, w_scale, in_features=in_features)
    w_q = np.ones((2, in_features), np.int8)
    np.testing.assert_array_equal(np.array(y), reference.bit_linear(np.array(x), w_q, np.float32(1)))


def test_calls_are_kept_by_their_kinds():
    linear_function.cache_clear()
    x, layer = mx.ones((5, 7)), bjm.BitLinear(7, 3)
    layer(x)
    before = len(CALLS)
    for _ in range(3):
        layer(x + 1)
    assert len(CALLS) == before
    layer(mx.ones((6, 7)))
    assert len(CALLS) > before


def test_the_needed_version_is_that_of_the_extra(monkeypatch):
    version.check_mlx()
    asked = [
        line for line in metadata.requires("bitnet-jit") or [] if line.startswith("mlx") and 'extra == "mlx"' in line
    ]
    assert not asked or f">={version.WANTED}" in asked[0]
    monkeypatch.setattr(version, "version", lambda name: "0.31.9")
    with pytest.raises(MissingPackage, match=r"expected the package mlx >= 0\.32, found 0\.31\.9; pip install"):
        version.check_mlx()

    def absent(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(version, "version", absent)
    with pytest.raises(MissingPackage, match=r"expected the package mlx >= 0\.32, found none; pip install"):
        version.check_mlx()


@pytest.mark.skipif(
    find_compiler() is None and "CI" not in os.environ, reason="needs clang++ and its sanitizers: apt install clang"
)
def test_calls_go_to_metal_where_there_is_a_gpu():
    from metal_host.fake_mlx import metal

    x, weight, bias, _ = draw((2, 9, 70))
    w_packed, w_scale = bjm.quantize_weight(mx.array(weight))
    arrays = (mx.array(x), w_packed, w_scale, mx.array(bias))
    on_cpu = bjm.bit_linear(*arrays, in_features=70)
    with metal():
        y = bjm.bit_linear(*arrays, in_features=70)
    assert mx.array_equal(y, on_cpu).item()
    chosen = {DISPATCHER.choose(problem).kernel.name for problem in DISPATCHER.problems() if problem.gpu is not None}
    assert chosen & {"mlx.fused_bit_linear", "mlx.few_bit_linear"}
