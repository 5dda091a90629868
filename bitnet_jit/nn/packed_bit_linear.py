"""`PackedBitLinear`: a ternary layer as it runs, with its weight in 2 bits (`i2`) or 1.6 (`t5`).

In memory the weight has the layout that its device's kernels read; `state_dict` always holds the canonical one, so a
checkpoint is the same wherever it was written. A moved layer lays its weight anew; no conversion of dtypes touches it
or its scale. The parameters are frozen: gradients flow to the input, and to the bias where it asks for one.
"""

from typing import Any, Self

import torch
from torch import nn

from bitnet_jit.dtypes import FLOATS
from bitnet_jit.errors import InvalidInput
from bitnet_jit.nn import checks
from bitnet_jit.nn.dense_weight import ReadsDense
from bitnet_jit.nn.fast_path import Called
from bitnet_jit.nn.laid_weight import LaidWeight, check_canonical
from bitnet_jit.nn.rms_norm import INSIDE, RMSNorm, norm_inside
from bitnet_jit.nn.rotation import Rotation, rotation_of
from bitnet_jit.nn.save_guard import guard_save_pretrained
from bitnet_jit.ops.linear import bit_linear, quantized_linear
from bitnet_jit.ops.norm_linear import rms_norm_bit_linear
from bitnet_jit.ops.weights import DEQUANTIZE_WEIGHT
from bitnet_jit.packing import get_format
from bitnet_jit.problem import SCALES, scale_shape
from bitnet_jit.quant.checks import check_scale
from bitnet_jit.quant.rotation import ROTATION
from bitnet_jit.quant.weight import dequantize_weight


class PackedBitLinear(ReadsDense, Called, LaidWeight):
    """A linear layer with a packed ternary weight: y = x_q @ w_q.T * (x_scale * w_scale) + bias.

    The constructor makes a layer of zeros to load a state_dict into; `from_codes`, `from_packed` and `BitLinear.pack`
    make one from weights.

    Args:
        in_features: K, up to 2**18.
        out_features: N.
        bias: whether to add one.
        device: device of the parameters; on "meta" they take no memory until they are loaded.
        dtype: dtype of the bias, and of `weight` as others read it; scales are always float32.
        scale: "tensor", "row" or "group".
        group_size: inputs that share a scale with scale="group", else 0.
        activation: "a8" quantizes each row of the input to int8, "a8g" each group of inputs that shares a scale (with
            scale="group" only), "a16" computes in floating point.
        format: "i2" or "t5" (no group scales).
        use_rms_norm: whether the layer normalizes its input.
        rms_norm_eps: eps of that norm.

    Attributes:
        w_packed: uint8, in `layout`.
        w_scale: float32 (), (N,) or (N, ceil(K / group_size)).
        bias: (N,) or None.
        rms_norm: `RMSNorm` of K; there with use_rms_norm only.
        rotation: `Rotation` of the input, of a folded weight; there after `put_rotation` only.
        layout: name of the layout of w_packed.
        weight: (N, K), a stand-in for code that asks for its dtype or its device: it holds no memory, is no parameter,
            and becomes `dequantize()` when an operation reads it (see `dense_weight.py`).
        weight_dtype: dtype of `weight`; `.to(dtype)` and methods like it change it, as they do with a weight of floats.

    FSDP takes no scalar such as a scale of a whole weight: it has to ignore `bitnet_jit.nn.packed_parameters(model)`.

    Raises:
        InvalidInput: an argument is out of range or does not go with another.

    >>> layer = PackedBitLinear.from_codes(torch.tensor([[1, -1], [0, 1]], dtype=torch.int8), torch.tensor(0.5))
    >>> layer(torch.tensor([1.0, -1.0])).tolist()
    [1.0, -0.5]
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        scale: str = "tensor",
        group_size: int = 0,
        activation: str = "a8",
        format: str = "i2",
        use_rms_norm: bool = False,
        rms_norm_eps: float = 1e-6,
    ) -> None:
        super().__init__()
        in_features, out_features = checks.check_features(in_features, out_features)
        group_size = checks.check_options(format, scale, group_size, activation)
        self.in_features, self.out_features = in_features, out_features
        self.scale, self.group_size = scale, group_size
        self.activation, self.format = activation, format
        self.weight_dtype = torch.get_default_dtype() if dtype is None else dtype
        packing = get_format(format)
        zeros = int(packing.join([1] * packing.codes_per_byte))
        shape = scale_shape(scale, out_features, in_features, group_size)
        self._adopt(
            torch.full(packing.packed_shape(out_features, in_features), zeros, dtype=torch.uint8, device=device),
            torch.ones(shape, dtype=torch.float32, device=device),
            torch.zeros(out_features, device=device, dtype=dtype) if bias else None,
        )
        if use_rms_norm:
            self.put_inside(RMSNorm(in_features, rms_norm_eps, device, dtype))

    @classmethod
    def from_packed(
        cls,
        w_packed: torch.Tensor,
        w_scale: torch.Tensor,
        bias: torch.Tensor | None = None,
        *,
        in_features: int,
        group_size: int = 0,
        activation: str = "a8",
        format: str = "i2",
        counted: bool = False,
    ) -> Self:
        """Make a layer from a canonical packed weight.

        Args:
            w_packed: uint8 (N, ceil(in_features / codes per byte)); not copied where the device runs canonical weights.
            w_scale: float32 () for the tensor, (N,) for rows or (N, ceil(in_features / group_size)) for groups.
            bias: (N,) floating point, on the same device as the others.
            in_features, group_size: K, which the packed shape does not tell; inputs per group scale, else 0.
            activation: "a8", "a16", or with group scales "a8g".
            format: "i2" or "t5".
            counted: whether the codes are known to be ternary, so that they are not read once more.

        Raises:
            InvalidInput: a shape, dtype or device is wrong, a code is 3, a scale is not finite, or the tensor's is 0.
        """
        layer = cls(
            in_features,
            len(w_packed),
            bias=False,
            device="meta",
            scale=scale_by_dimensions(w_packed, w_scale),
            group_size=group_size,
            activation=activation,
            format=format,
        )
        layer._check(w_packed, w_scale, bias, counted)
        layer._adopt(w_packed, w_scale, bias)
        layer.weight_dtype = torch.float32 if bias is None else bias.dtype
        return layer

    @classmethod
    def from_codes(
        cls,
        w_q: torch.Tensor,
        w_scale: torch.Tensor,
        bias: torch.Tensor | None = None,
        group_size: int = 0,
        activation: str = "a8",
        format: str = "i2",
    ) -> Self:
        """Make a layer from codes w_q (N, K) int8 in {-1, 0, 1}; the other arguments and errors as `from_packed`."""
        return cls.from_packed(
            get_format(format).pack(w_q),
            w_scale,
            bias,
            in_features=w_q.shape[1],
            group_size=group_size,
            activation=activation,
            format=format,
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (..., N) of x's dtype for x (..., K) float32, bfloat16 or float16; under autocast, of autocast's."""
        layer, norm = (*self.operands(), self.activation), norm_inside(self)
        y: torch.Tensor
        if (rotation := rotation_of(self)) is not None:
            y = bit_linear(rotation(x if norm is None else norm(x)), *layer)
        elif norm is None:
            y = bit_linear(x, *layer)
        else:
            y = rms_norm_bit_linear(x, norm.weight, norm.eps, *layer)
        return y

    def operands(self) -> tuple[Any, ...]:
        """Return what ops take of a packed layer, beside its rotated input where it has a rotation."""
        if self._awaits_device:
            self._leave_meta()
        parameters = self._parameters  # nn.Module.__getattr__ costs 0.3 us per parameter
        return (
            parameters["w_packed"],
            parameters["w_scale"],
            parameters["bias"],
            self.in_features,
            self.out_features,
            self.layout,
            self.group_size,
        )

    def forward_quantized(self, x_q: torch.Tensor, x_scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Run the layer on an input that is quantized already; a norm inside the layer plays no part.

        Args:
            x_q: (..., K) int8.
            x_scale: (...) float32.
            dtype: of the output: float32, bfloat16 or float16.

        Returns:
            (..., N).

        Raises:
            InvalidInput: the layer rotates its input, which codes do not allow.

        >>> layer = PackedBitLinear.from_codes(torch.tensor([[1, -1], [0, 1]], dtype=torch.int8), torch.tensor(0.5))
        >>> layer.forward_quantized(torch.tensor([127, 1], dtype=torch.int8), torch.tensor(1.0), torch.float32)
        tensor([63.0000,  0.5000])
        """
        if (rotation := rotation_of(self)) is not None:
            raise InvalidInput(f"x_q: a layer with {rotation} rotates floats and no codes; call it on the floats")
        y: torch.Tensor = quantized_linear(x_q, x_scale, *self.operands(), dtype)
        return y

    def put_inside(self, norm: RMSNorm) -> None:
        """Have the layer normalize its input from now on; the norm is frozen, and not copied.

        Raises:
            InvalidInput: the norm is of another size.
        """
        if norm.hidden_size != self.in_features:
            raise InvalidInput(f"norm: expected hidden_size={self.in_features}, got {norm.hidden_size}")
        self.add_module(INSIDE, norm.requires_grad_(False))

    def put_rotation(self, rotation: Rotation) -> None:
        """Have the layer rotate its input from now on, behind a norm inside: its codes are of a folded weight.

        Raises:
            InvalidInput: the rotation is of another size.
        """
        if rotation.in_features != self.in_features:
            raise InvalidInput(f"rotation: expected in_features={self.in_features}, got {rotation.in_features}")
        self.add_module(ROTATION, rotation)

    def unpack(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return w_q (N, K) int8 and w_scale, the inverse of `from_codes`; with a rotation, of the folded weight."""
        w_q: torch.Tensor = get_format(self.format).unpack(self.canonical(), self.in_features)
        return w_q, self.w_scale.detach()

    def dequantize(self) -> torch.Tensor:
        """Return the matrix that multiplies the layer's input: w_q * w_scale, unfolded if rotated; (N, K) float32."""
        folded = dequantize_weight(*self.unpack(), self.group_size)
        return folded if (rotation := rotation_of(self)) is None else rotation.undo(folded)

    def _dense(self) -> torch.Tensor:
        if self._awaits_device:
            self._leave_meta()
        options = (self.in_features, self.out_features, self.layout, self.group_size)
        dtype = self.weight_dtype if self.weight_dtype in FLOATS else torch.float32
        rotation = rotation_of(self)
        made_in = dtype if rotation is None else torch.float32
        dense: torch.Tensor = DEQUANTIZE_WEIGHT.torch(self.w_packed.detach(), self.w_scale.detach(), *options, made_in)
        return (dense if rotation is None else rotation.undo(dense)).to(self.weight_dtype)

    def _place(self) -> torch.device:
        return self.w_packed.device

    def extra_repr(self) -> str:
        groups = f" of {self.group_size}" if self.group_size else ""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, "
            f"format={self.format}, scale={self.scale}{groups}, activation={self.activation}"
        )

    def _check(
        self, w_packed: torch.Tensor, w_scale: torch.Tensor, bias: torch.Tensor | None, counted: bool = False
    ) -> None:
        """Raise InvalidInput unless the tensors fit the layer and are on one device."""
        check_canonical(w_packed, self.format, self.out_features, self.in_features, counted)
        check_scale(w_scale, tuple(self.w_scale.shape))
        checks.check_bias(bias, self.out_features)
        for name, tensor in {"w_scale": w_scale, "bias": bias}.items():
            if tensor is not None and tensor.device != w_packed.device:
                raise InvalidInput(f"{name}: is on {tensor.device}, w_packed on {w_packed.device}; move one of them")

    def _lay(self, was_meta: bool = False) -> None:
        guard_save_pretrained(PackedBitLinear)
        super()._lay(was_meta)

    def _adopt(self, w_packed: torch.Tensor, w_scale: torch.Tensor, bias: torch.Tensor | None) -> None:
        """Take tensors that fit as frozen parameters; w_packed is canonical and is laid for its device."""
        self.layout = self.format
        self.w_packed = nn.Parameter(w_packed.detach().contiguous(), requires_grad=False)
        self.w_scale = nn.Parameter(w_scale.detach().contiguous(), requires_grad=False)
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias.detach(), requires_grad=False))
        self._lay()


def scale_by_dimensions(w_packed: torch.Tensor, w_scale: torch.Tensor) -> str:
    """Return the kind of scale that has as many dimensions as w_scale: "tensor", "row" or "group"."""
    if w_scale.dim() >= len(SCALES) or w_packed.dim() != 2:
        raise InvalidInput(
            f"expected w_packed with 2 dimensions and w_scale with 0 to 2, got shapes {tuple(w_packed.shape)} "
            f"and {tuple(w_scale.shape)}"
        )
    return SCALES[w_scale.dim()]
