"""A packed weight with its device's layout in memory and the canonical one in `state_dict`.

A layer that is moved lays its weight anew; no conversion of dtypes touches it or its scale. The layout's name travels
with the tensor, because another layer that shares it may have laid it anew.
"""

from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
from torch import nn

from bitnet_jit.devices.huge_pages import HUGE_PAGES
from bitnet_jit.errors import InvalidInput
from bitnet_jit.kernels import registry
from bitnet_jit.packing import CANONICAL, Layout, get_format
from bitnet_jit.quant.checks import check_scale

LAYOUT = "layout_name"  # an attribute of w_packed


class LaidWeight(nn.Module):
    """The tensors of a `PackedBitLinear`: moved, copied, pickled, saved and loaded.

    Attributes:
        w_packed: uint8, in `layout`.
        w_scale: float32.
        bias: (N,) or None.
        format: name of the packing.
        layout: name of the layout of w_packed.
        weight_dtype: dtype of the weight as others read it; `.to(dtype)` and methods like it change it.
    """

    w_packed: nn.Parameter
    w_scale: nn.Parameter
    bias: nn.Parameter | None
    in_features: int
    out_features: int
    format: str
    layout: str
    weight_dtype: torch.dtype

    def canonical(self) -> torch.Tensor:
        """Return the packed weight as it is saved, uint8 (N, ceil(K / codes per byte)); not copied if it is laid so."""
        return self._to_canonical(self.w_packed.detach())

    def _to_canonical(self, w_packed: torch.Tensor) -> torch.Tensor:
        layout = registry.get_layout(self.layout)
        canonical: torch.Tensor = layout.to_canonical(w_packed, self.out_features, self.in_features)
        return canonical.contiguous()

    def _lay(self, was_meta: bool = False) -> None:
        """Bring w_packed into the layout of the device that it is on."""
        w_packed = self.w_packed
        self.layout = getattr(w_packed, LAYOUT, self.layout)
        wanted = registry.preferred_layout(self.format, w_packed.device.type)
        if wanted.name != self.layout:
            if w_packed.is_meta or was_meta:  # there are no values to keep
                shape = wanted.shape(self.out_features, self.in_features)
                laid = torch.empty(shape, dtype=torch.uint8, device=w_packed.device)
            else:
                canonical = self._to_canonical(w_packed.detach())
                laid = laid_out(wanted, canonical, self.out_features, self.in_features)
            w_packed.data = laid
            self.layout = wanted.name
        setattr(w_packed, LAYOUT, self.layout)
        self._awaits_device = w_packed.is_meta

    def _leave_meta(self) -> None:
        """Lay a weight that was put in place from outside (as accelerate does) since the layer was made on meta."""
        if not torch.compiler.is_compiling():  # a trace runs the canonical weight instead: slower, and as right
            self._lay()

    def stay_on_meta(self, other: "LaidWeight") -> None:
        """Become a copy of the other layer on "meta", in its layout, to ask which kernels it would run."""
        w_packed = torch.empty_like(other.w_packed, device="meta")
        self.layout, self._awaits_device = other.layout, False
        self.w_packed = nn.Parameter(w_packed, requires_grad=False)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        """Convert as `.to()` and `.half()` do: devices change, dtypes of the weight and its scale do not."""
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
        """Restore a copy, or a pickle that may come from another kind of device."""
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
        """Return the entry of w_packed as it will be resident, or none; with `assign` the layer takes it at once."""
        w_scale, w_packed = state_dict.get(prefix + "w_scale"), state_dict.get(prefix + "w_packed")
        if w_scale is not None:
            check_scale(w_scale, tuple(self.w_scale.shape))
        if w_packed is None:
            return {}
        check_canonical(w_packed, self.format, self.out_features, self.in_features)
        if assign:
            self.layout = self.format
            self.w_packed = nn.Parameter(w_packed.detach().contiguous(), requires_grad=False)
            self._lay()
            return {prefix + "w_packed": self.w_packed}
        layout = registry.get_layout(self.layout)
        return {prefix + "w_packed": layout.from_canonical(w_packed, self.out_features, self.in_features)}


def laid_out(layout: Layout, canonical: torch.Tensor, out_features: int, in_features: int) -> torch.Tensor:
    """Return a canonical weight in a layout, where it is to stay."""
    if layout.lay is None or not HUGE_PAGES.takes(canonical):
        return HUGE_PAGES.resident(layout.from_canonical(canonical, out_features, in_features))
    laid = HUGE_PAGES.empty(layout.shape(out_features, in_features), torch.uint8)
    layout.lay(canonical, laid, in_features)
    return laid


def check_canonical(
    w_packed: torch.Tensor, format: str, out_features: int, in_features: int, counted: bool = False
) -> None:
    """Raise InvalidInput unless w_packed is a canonical packed weight of that size without a code above 2.

    Values on meta, and those that were counted already, are not read.
    """
    CANONICAL[format].check(w_packed, out_features, in_features)
    if not (counted or w_packed.is_meta):
        get_format(format).check_bytes(w_packed, "w_packed")
