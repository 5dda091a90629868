"""`BitLinear`: nn.Linear that trains with a ternary weight and int8 activations (BitNet b1.58, arXiv 2402.17764)."""

import copy

import torch
from torch import nn

from bitnet_jit.errors import InvalidInput
from bitnet_jit.nn import checks
from bitnet_jit.nn.fast_path import Called
from bitnet_jit.nn.gradual import STRENGTH, blended
from bitnet_jit.nn.packed_bit_linear import PackedBitLinear
from bitnet_jit.nn.rms_norm import RMSNorm, norm_inside
from bitnet_jit.ops.training import REVISION
from bitnet_jit.quant.weight import quantize_weight

bit_linear_train = torch.ops.bitnet_jit.bit_linear_train.default


class BitLinear(Called, nn.Linear):
    """A linear layer whose weight is rounded to {-1, 0, 1} times mean|weight| in every forward.

    The optimizer sees the float weight; gradients pass both quantizers straight through. Its signature,
    initialization, state_dict and behaviour are those of nn.Linear. Weight and input may differ in dtype; the output
    has the input's. float64 is refused in words.

    Args:
        in_features: K, up to 2**18.
        out_features: N.
        bias: whether to add one.
        device: device of the parameters.
        dtype: dtype of the parameters: float32 masters, or bfloat16 or float16.
        use_rms_norm: whether the layer normalizes its input, as BitNet does before attention's output and
            feed-forward's last projection; fused with the quantization.
        rms_norm_eps: eps of that norm.

    Attributes:
        weight: (N, K).
        bias: (N,) or None.
        rms_norm: `RMSNorm` of K; there with use_rms_norm only.

    Raises:
        InvalidInput: a size or rms_norm_eps is out of range.

    >>> layer, x = BitLinear(4, 2), torch.randn(3, 4)
    >>> layer(x).sum().backward()
    >>> layer.weight.grad.shape, torch.equal(layer.pack()(x), layer(x))
    (torch.Size([2, 4]), True)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        use_rms_norm: bool = False,
        rms_norm_eps: float = 1e-6,
    ) -> None:
        in_features, out_features = checks.check_features(in_features, out_features)
        super().__init__(in_features, out_features, bias, device, dtype)
        if use_rms_norm:
            self.rms_norm = RMSNorm(in_features, rms_norm_eps, device, dtype)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return (..., N) of the input's dtype, or of autocast's, for (..., K) float32, bfloat16 or float16."""
        norm = norm_inside(self)
        if (strength := self._buffers.get(STRENGTH)) is not None:
            return blended(input if norm is None else norm(input), self.weight, self.bias, strength)
        norm_weight, eps = (None, 0.0) if norm is None else (norm.weight, norm.eps)
        y: torch.Tensor = bit_linear_train(input, self.weight, self.bias, norm_weight, eps, REVISION)
        return y

    def pack(self, format: str = "i2") -> PackedBitLinear:
        """Return the layer as it runs, with the same output bit for bit: a quantized weight, copies of bias and norm.

        Args:
            format: "i2" (2 bits per weight) or "t5" (1.6).

        Raises:
            InvalidInput: the weight holds NaN or infinity or is sharded, or the format is unknown.
        """
        if type(self.weight) not in (nn.Parameter, torch.Tensor):
            raise InvalidInput(
                f"weight: expected a plain tensor, got a {type(self.weight).__name__}; gather the model first, by "
                "torch.distributed.checkpoint.state_dict.get_model_state_dict with full_state_dict=True"
            )
        if self.weight.is_meta:
            with_bias = self.bias is not None
            packed = PackedBitLinear(
                self.in_features, self.out_features, with_bias, "meta", self.weight.dtype, format=format
            )
        else:
            bias = None if self.bias is None else self.bias.detach().clone()
            packed = PackedBitLinear.from_codes(*quantize_weight(self.weight), bias, format=format)
        packed.weight_dtype = self.weight.dtype
        if (norm := norm_inside(self)) is not None:
            packed.put_inside(copy.deepcopy(norm))
        return packed.train(self.training)
