"""`BitLinear`: mlx.nn.Linear that trains with ternary weights and int8 activations (BitNet b1.58, arXiv 2402.17764)."""

from typing import Any

import mlx.core as mx
from mlx import nn

from bitnet_jit.errors import InvalidInput
from bitnet_jit.kernels.mlx.plain.products import columns_times
from bitnet_jit.mlx.calls import call
from bitnet_jit.mlx.ops import LAYOUT, bias_gradient, quantize_activation, quantize_weight
from bitnet_jit.mlx.packed import PackedBitLinear
from bitnet_jit.nn.checks import check_features
from bitnet_jit.ops.input_grad import INPUT_GRAD


def forward(x: Any, weight: Any, bias: Any = None) -> Any:
    """Quantize weight and input, and multiply: (..., N) of x's dtype."""
    x_q, x_scale = quantize_activation(x)
    sizes = (weight.shape[1], weight.shape[0], LAYOUT, 0)
    return call("quantized_linear", x_q, x_scale, *quantize_weight(weight), bias, *sizes, x.dtype)


bit_linear_train = mx.custom_function(forward)


@bit_linear_train.vjp
def gradients(arrays: Any, dy: Any, _: Any) -> Any:
    """Return the gradients of x, weight and bias, straight through both quantizers: dX = dY W, dW = dY^T X.

    W and X are what was multiplied: codes times scales.
    """
    x, weight, *bias = arrays
    sizes = (weight.shape[1], weight.shape[0], LAYOUT, 0)
    dx = call(INPUT_GRAD.spec.name, dy.astype(x.dtype), *quantize_weight(weight), *sizes)
    rounded = call("dequantize_activation", *quantize_activation(x), mx.float32)
    rows = dy.reshape(-1, dy.shape[-1]).astype(mx.float32)
    dw = columns_times(rows, rounded.reshape(-1, rounded.shape[-1])).astype(weight.dtype)
    return dx, dw, *(bias_gradient(dy, b) for b in bias)


class BitLinear(nn.Linear):
    """A linear layer whose weight is rounded to {-1, 0, 1} times mean|weight| in every forward.

    The optimizer sees the float weight; gradients pass both quantizers straight through. Its signature, initialization
    and parameters are those of mlx.nn.Linear.

    Args:
        input_dims: K, up to 2**18.
        output_dims: N.
        bias: whether to add one.

    Attributes:
        weight: (N, K) of floats.
        bias: (N,), where there is one.

    Raises:
        InvalidInput: a size is out of range.

    >>> layer, x = BitLinear(4, 2), mx.ones((3, 4))
    >>> loss, gradients = nn.value_and_grad(layer, lambda x: layer(x).sum())(x)
    >>> gradients["weight"].shape, mx.array_equal(layer.pack()(x), layer(x)).item()
    ((2, 4), True)
    """

    def __init__(self, input_dims: int, output_dims: int, bias: bool = True) -> None:
        super().__init__(*check_features(input_dims, output_dims), bias)

    def __call__(self, x: mx.array) -> Any:
        """Return (..., N) of x's dtype for x (..., K) float32, bfloat16 or float16."""
        parameters = (self.weight, self.bias) if "bias" in self else (self.weight,)
        y: Any = bit_linear_train(x, *parameters)
        return y

    def pack(self, activation: str = "a8") -> PackedBitLinear:
        """Return the layer as it runs, with the same output bit for bit.

        Raises:
            InvalidInput: the weight holds NaN or infinity, or the activation is unknown.
        """
        w_packed, w_scale = quantize_weight(self.weight)
        if not mx.isfinite(w_scale).item():
            raise InvalidInput(f"weight: expected finite numbers, got the mean {w_scale.item()}")
        bias = self.bias if "bias" in self else None
        packed = PackedBitLinear(w_packed, w_scale, bias, in_features=self.weight.shape[1], activation=activation)
        packed.train(self.training)
        return packed
