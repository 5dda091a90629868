"""`PackedBitLinear`: a ternary layer of MLX as it runs, with its weight in 2 bits."""

import mlx.core as mx
from mlx import nn

from bitnet_jit.errors import InvalidInput
from bitnet_jit.kernels import registry
from bitnet_jit.mlx.calls import problem_of
from bitnet_jit.mlx.ops import LAYOUT, bit_linear, run_linear
from bitnet_jit.nn.checks import check_features, check_options
from bitnet_jit.problem import SCALES, Problem, scale_shape


class PackedBitLinear(nn.Module):
    """A linear layer with a packed ternary weight: y = x_q @ w_q.T * (x_scale * w_scale) + bias.

    All parameters are frozen. In training mode gradients flow to the input; in evaluation mode, which calls less of
    Python, they do not.

    Args:
        w_packed: uint8 in the layout i2/words (`bitnet_jit.mlx.ops.lay`).
        w_scale: float32 () for the tensor, (N,) for rows or (N, ceil(K / group_size)) for groups. `set_dtype` must not
            change it.
        bias: (N,) of floats, or None.
        in_features: K, which the packed shape does not tell.
        group_size: inputs per scale where scales are of groups, else 0.
        activation: "a8" quantizes each row of the input to int8, "a8g" each group of inputs that shares a scale, "a16"
            computes in floating point.

    Raises:
        InvalidInput: a shape, dtype or option is wrong.

    >>> from bitnet_jit.mlx import quantize_weight
    >>> layer = PackedBitLinear(*quantize_weight(mx.array([[1.0, -1.0], [0.0, 1.0]])), in_features=2)
    >>> layer(mx.array([1.0, -1.0])).tolist()
    [1.5, -0.75]
    """

    def __init__(
        self,
        w_packed: mx.array,
        w_scale: mx.array,
        bias: mx.array | None = None,
        *,
        in_features: int,
        group_size: int = 0,
        activation: str = "a8",
    ) -> None:
        super().__init__()
        check_parts(w_packed, w_scale, bias, in_features, group_size, activation)
        self.w_packed, self.w_scale, self.bias = w_packed, w_scale, bias
        self.in_features, self.group_size, self.activation = in_features, group_size, activation
        self.freeze()

    @property
    def out_features(self) -> int:
        """Return N."""
        return self.w_packed.shape[0]

    def problem(self, x: mx.array) -> Problem:
        """Return the problem that a call on x (..., K) poses, which tuned choices are keyed by."""
        options = (self.in_features, self.out_features, LAYOUT, self.group_size, self.activation)
        return problem_of("bit_linear", (x, self.w_packed, self.w_scale, self.bias, *options))

    def __call__(self, x: mx.array) -> mx.array:
        """Return (..., N) of x's dtype for x (..., K) float32, bfloat16 or float16."""
        if not self.training:
            options = (self.in_features, self.out_features, LAYOUT, self.group_size, self.activation)
            y: mx.array = run_linear(options, x, self.w_packed, self.w_scale, self.bias)
            return y
        options_by_name = {"in_features": self.in_features, "group_size": self.group_size}
        return bit_linear(x, self.w_packed, self.w_scale, self.bias, **options_by_name, activation=self.activation)

    def _extra_repr(self) -> str:
        groups = f", group_size={self.group_size}" if self.group_size else ""
        sizes = f"in_features={self.in_features}, out_features={self.out_features}"
        return f"{sizes}, bias={self.bias is not None}, activation={self.activation}{groups}"


def check_parts(
    w_packed: mx.array, w_scale: mx.array, bias: mx.array | None, in_features: int, group_size: int, activation: str
) -> None:
    """Raise InvalidInput unless the parts of a layer fit each other."""
    for name, array in {"w_packed": w_packed, "w_scale": w_scale, "bias": bias}.items():
        if not isinstance(array, mx.array) and (name, array) != ("bias", None):
            raise InvalidInput(f"{name}: expected an array of MLX, got {type(array).__name__}")
    if w_packed.ndim != 2 or w_scale.ndim >= len(SCALES):
        shapes = f"{tuple(w_packed.shape)} and {tuple(w_scale.shape)}"
        raise InvalidInput(f"expected w_packed with 2 dimensions and w_scale with 0 to 2, got shapes {shapes}")
    scale = SCALES[w_scale.ndim]
    in_features, out_features = check_features(in_features, w_packed.shape[0])
    group_size = check_options("i2", scale, group_size, activation)
    registry.get_layout(LAYOUT).check(w_packed, out_features, in_features)
    expected = scale_shape(scale, out_features, in_features, group_size)
    if w_scale.dtype != mx.float32 or tuple(w_scale.shape) != expected:
        raise InvalidInput(f"w_scale: expected float32 {expected}, got {w_scale.dtype} {tuple(w_scale.shape)}")
    if bias is not None and tuple(bias.shape) != (out_features,):
        raise InvalidInput(f"bias: expected floating point ({out_features},), got {bias.dtype} {tuple(bias.shape)}")
