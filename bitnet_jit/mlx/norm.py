"""`RMSNorm` of MLX on the rms_norm kernel (arXiv 1910.07467)."""

import mlx.core as mx
from mlx import nn

from bitnet_jit.mlx.ops import rms_norm


class RMSNorm(nn.Module):
    """x / sqrt(mean x^2 + eps) * weight over the last dimension, computed in float32 and rounded once to x's dtype.

    Args:
        dims: size of the last dimension.
        eps: added to the mean of squares.

    Attributes:
        weight: (dims,).

    >>> RMSNorm(2, eps=12.5)(mx.array([3.0, -4.0])).tolist()
    [0.6000000238418579, -0.800000011920929]
    """

    def __init__(self, dims: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = mx.ones((dims,))
        self.eps = eps

    def __call__(self, x: mx.array) -> mx.array:
        """Return (..., dims) of x's dtype."""
        return rms_norm(x, self.weight, self.eps)

    def _extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, eps={self.eps}"
