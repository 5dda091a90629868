"""`PackedBitLinear`: a ternary layer as it runs, with its weight in 2 bits (`i2`) or 1.6 (`t5`).

In memory the weight has the layout that its device's kernels read; `state_dict` always holds the canonical one, so a
checkpoint is the same wherever it was written. Moving the layer re-lays the weight; no conversion of dtypes touches it
or its scale. The parameters are frozen: gradients flow to the input, and to the bias where it asks for one.
"""

from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
from torch import nn

from bitnet_jit.errors import InvalidInput
from bitnet_jit.kernels import registry
from bitnet_jit.nn import checks
from bitnet_jit.nn.dense_weight import ReadsDense
from bitnet_jit.nn.guard import guard_save_pretrained
from bitnet_jit.nn.rms_norm import INSIDE, RMSNorm, norm_inside
from bitnet_jit.ops import eager
from bitnet_jit.packing import get_format
from bitnet_jit.quant import dequantize_weight

bit_linear, rms_norm_bit_linear = eager("bit_linear"), eager("rms_norm_bit_linear")
dequantize = torch.ops.bitnet_jit.dequantize_weight.default
LAYOUT = "layout_name"  # an attribute of w_packed: a layer that shares it may have laid it anew


class PackedBitLinear(ReadsDense, nn.Module):
    """A linear layer with a packed ternary weight: y = x_q @ w_q.T * (x_scale * w_scale) + bias.

    The constructor makes a layer of zeros to load a state_dict into; `from_codes`, `from_packed` and `BitLinear.pack`
    make one from weights.

    Args:
        in_features: K, up to 2**18.
        out_features: N.
        bias: whether to add one.
        device: where the parameters live; on "meta" they take no memory until they are loaded.
        dtype: of the bias, and of `weight` as others read it; scales are always float32.
        scale: "tensor", "row" or "group".
        group_size: inputs that share a scale with scale="group", else 0.
        activation: "a8" quantizes each row of the input to int8, "a16" computes in floating point.
        format: "i2" or "t5" (no group scales).
        use_rms_norm: whether the layer normalizes its input.
        rms_norm_eps: of that norm.

    Attributes:
        w_packed: uint8, in `layout`.
        w_scale: float32 (), (N,) or (N, ceil(K / group_size)).
        bias: (N,) or None.
        rms_norm: `RMSNorm` of K; there with use_rms_norm only.
        layout: name of the layout of w_packed.
        weight: (N, K), a stand-in for code that asks for its dtype or its device: it holds no memory, is no parameter,
            and becomes `dequantize()` when an operation reads it (see `dense_weight.py`).
        weight_dtype: of `weight`; `.to(dtype)` and its kin change it, as they would that of a float weight.

    FSDP takes no scalar such as a scale of a whole weight: it has to ignore `bitnet_jit.nn.packed_parameters(model)`.

    Raises:
        InvalidInput: an argument is out of range or does not go with another.

    >>> layer = PackedBitLinear.from_codes(torch.tensor([[1, -1], [0, 1]], dtype=torch.int8), torch.tensor(0.5))
    >>> layer(torch.tensor([1.0, -1.0])).tolist()
    [1.0, -0.5]
    """

    w_packed: nn.Parameter
    w_scale: nn.Parameter
    bias: nn.Parameter | None

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
        shape = checks.scale_shape(scale, out_features, in_features, group_size)
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
    ) -> Self:
        """A layer from a canonical packed weight.

        Args:
            w_packed: uint8 (N, ceil(in_features / codes per byte)); not copied where the device runs canonical weights.
            w_scale: float32 () for the tensor, (N,) for rows or (N, ceil(in_features / group_size)) for groups.
            bias: (N,) floating point, on the same device as the others.
            in_features: K, which the packed shape does not tell.
            group_size: inputs in a group with group scales, else 0.
            activation: "a8" or "a16".
            format: "i2" or "t5".

        Raises:
            InvalidInput: a tensor has a wrong shape, dtype or device, a code is 3, or a scale is NaN, infinite, or (one
                for the whole tensor) zero.
        """
        if w_scale.dim() >= len(checks.SCALES) or w_packed.dim() != 2:
            raise InvalidInput(
                f"expected w_packed with 2 dimensions and w_scale with 0 to 2, got shapes {tuple(w_packed.shape)} "
                f"and {tuple(w_scale.shape)}"
            )
        layer = cls(
            in_features,
            len(w_packed),
            bias=False,
            device="meta",
            scale=checks.SCALES[w_scale.dim()],
            group_size=group_size,
            activation=activation,
            format=format,
        )
        checks.check_canonical(w_packed, get_format(format), layer.out_features, in_features)
        checks.check_scale(w_scale, tuple(layer.w_scale.shape))
        checks.check_bias(bias, layer.out_features)
        for name, tensor in {"w_scale": w_scale, "bias": bias}.items():
            if tensor is not None and tensor.device != w_packed.device:
                raise InvalidInput(f"{name}: is on {tensor.device}, w_packed on {w_packed.device}; move one of them")
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
        """A layer from codes w_q (N, K) int8 in {-1, 0, 1}; the other arguments and errors as `from_packed`."""
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
        """x (..., K) float32, bfloat16 or float16 -> (..., N) of x's dtype; under autocast, of autocast's."""
        if self._awaits_device:
            self._leave_meta()
        parameters = self._parameters  # nn.Module.__getattr__ costs 0.3 us a parameter
        layer = (
            parameters["w_packed"],
            parameters["w_scale"],
            parameters["bias"],
            self.in_features,
            self.out_features,
            self.layout,
            self.group_size,
            self.activation,
        )
        y: torch.Tensor
        if (norm := norm_inside(self)) is None:
            y = bit_linear(x, *layer)
        else:
            y = rms_norm_bit_linear(x, norm.weight, norm.eps, *layer)
        return y

    def put_inside(self, norm: RMSNorm) -> None:
        """Have the layer normalize its input from now on; the norm is frozen, and not copied.

        Raises:
            InvalidInput: it is of another size.
        """
        if norm.hidden_size != self.in_features:
            raise InvalidInput(f"norm: expected hidden_size={self.in_features}, got {norm.hidden_size}")
        self.add_module(INSIDE, norm.requires_grad_(False))

    def canonical(self) -> torch.Tensor:
        """The packed weight as it is saved, uint8 (N, ceil(K / codes per byte)); no copy where that is its layout."""
        return self._to_canonical(self.w_packed.detach())

    def unpack(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The inverse of `from_codes`: w_q (N, K) int8 and w_scale."""
        w_q: torch.Tensor = get_format(self.format).unpack(self.canonical(), self.in_features)
        return w_q, self.w_scale.detach()

    def dequantize(self) -> torch.Tensor:
        """The weight that this layer stands for, w_q * w_scale: (N, K) float32."""
        return dequantize_weight(*self.unpack(), self.group_size)

    def _dense(self) -> torch.Tensor:
        if self._awaits_device:
            self._leave_meta()
        options = (self.in_features, self.out_features, self.layout, self.group_size)
        dtype = self.weight_dtype if self.weight_dtype in checks.FLOATS else torch.float32
        dense: torch.Tensor = dequantize(self.w_packed.detach(), self.w_scale.detach(), *options, dtype)
        return dense.to(self.weight_dtype)

    def _place(self) -> torch.device:
        return self.w_packed.device

    def extra_repr(self) -> str:
        groups = f" of {self.group_size}" if self.group_size else ""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, "
            f"format={self.format}, scale={self.scale}{groups}, activation={self.activation}"
        )

    def _adopt(self, w_packed: torch.Tensor, w_scale: torch.Tensor, bias: torch.Tensor | None) -> None:
        """Take tensors that fit as frozen parameters; w_packed is canonical and is laid for its device."""
        self.layout = self.format
        self.w_packed = nn.Parameter(w_packed.detach().contiguous(), requires_grad=False)
        self.w_scale = nn.Parameter(w_scale.detach().contiguous(), requires_grad=False)
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias.detach(), requires_grad=False))
        self._lay()

    def _to_canonical(self, w_packed: torch.Tensor) -> torch.Tensor:
        layout = registry.get_layout(self.layout)
        canonical: torch.Tensor = layout.to_canonical(w_packed, self.out_features, self.in_features)
        return canonical.contiguous()

    def _lay(self, was_meta: bool = False) -> None:
        """Bring w_packed into the layout of the device that it is on."""
        guard_save_pretrained(PackedBitLinear)
        w_packed = self.w_packed
        self.layout = getattr(w_packed, LAYOUT, self.layout)
        wanted = registry.preferred_layout(self.format, w_packed.device.type)
        if wanted.name != self.layout:
            if w_packed.is_meta or was_meta:  # there are no values to keep
                shape = wanted.shape(self.out_features, self.in_features)
                laid = torch.empty(shape, dtype=torch.uint8, device=w_packed.device)
            else:
                canonical = self._to_canonical(w_packed.detach())
                laid = wanted.from_canonical(canonical, self.out_features, self.in_features)
            w_packed.data = laid
            self.layout = wanted.name
        setattr(w_packed, LAYOUT, self.layout)
        self._awaits_device = w_packed.is_meta

    def _leave_meta(self) -> None:
        """Lay a weight that was put in place from outside (as accelerate does) since the layer was made on meta."""
        if not torch.compiler.is_compiling():  # a trace runs the canonical weight instead: slower, and as right
            self._lay()

    def stay_on_meta(self, other: "PackedBitLinear") -> None:
        """Become what the other layer is, but on "meta", in its layout: for whoever asks what it would run."""
        w_packed = torch.empty_like(other.w_packed, device="meta")
        self.layout, self._awaits_device = other.layout, False
        self.w_packed = nn.Parameter(w_packed, requires_grad=False)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        """`.to()`, `.half()` and their kin: devices change, dtypes of the weight and its scale do not."""
        w_packed, w_scale = self.w_packed.detach(), self.w_scale.detach()
        self.layout = getattr(self.w_packed, LAYOUT, self.layout)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for parameter, before in ((self.w_packed, w_packed), (self.w_scale, w_scale)):
            if parameter.dtype != before.dtype:
                parameter.data = before.to(parameter.device)
        self.weight_dtype = fn(torch.empty(1, dtype=self.weight_dtype, device=w_packed.device)).dtype
        self._lay(was_meta=w_packed.is_meta)
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:
        """After a copy, or a pickle that may come from another kind of device."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        if "weight_dtype" not in self.__dict__:  # a pickle of an earlier version
            self.weight_dtype = torch.float32 if self.bias is None else self.bias.dtype
        self._lay()

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.layout != self.format:
            destination[prefix + "w_packed"] = self.canonical()

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Check the canonical tensors and hand them on as they will be resident."""
        assign = bool(local_metadata.get("assign_to_params_buffers", False))
        try:
            laid = self._laid_for_load(state_dict, prefix, assign)
        except InvalidInput as error:
            error_msgs.append(f"{prefix}{error}")
            return
        state_dict = {**state_dict, **laid}
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        if assign and self.bias is not None:
            self.weight_dtype = self.bias.dtype
        self._awaits_device = self.w_packed.is_meta

    def _laid_for_load(self, state_dict: Mapping[str, Any], prefix: str, assign: bool) -> dict[str, torch.Tensor]:
        """The entry of w_packed as it will be resident, or nothing; with `assign` the layer takes it at once."""
        w_scale, w_packed = state_dict.get(prefix + "w_scale"), state_dict.get(prefix + "w_packed")
        if w_scale is not None:
            checks.check_scale(w_scale, tuple(self.w_scale.shape))
        if w_packed is None:
            return {}
        checks.check_canonical(w_packed, get_format(self.format), self.out_features, self.in_features)
        if assign:
            self.layout = self.format
            self.w_packed = nn.Parameter(w_packed.detach().contiguous(), requires_grad=False)
            self._lay()
            return {prefix + "w_packed": self.w_packed}
        layout = registry.get_layout(self.layout)
        return {prefix + "w_packed": layout.from_canonical(w_packed, self.out_features, self.in_features)}
