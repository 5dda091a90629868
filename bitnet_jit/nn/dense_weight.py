"""`DenseWeight`: the `.weight` of a packed layer, for code that reads it instead of calling the layer.

Model files ask a linear layer for its weight's dtype, device or shape, and modules of torch hand the weight to fused
kernels. A packed layer has no such tensor, so `.weight` is a stand-in: a tensor without memory that knows its shape,
dtype and device, and becomes w_q * w_scale when an operation reads its values. torch's fast paths step aside, because
it has a __torch_function__. Nothing can be written into it: a write that would be lost in silence is refused in words.
"""

from collections.abc import Callable, Iterator
from typing import Any, Self

import torch
from torch.utils._pytree import tree_iter, tree_map_only

from bitnet_jit.errors import InvalidInput

REFUSED = (
    "weight: {action} would change a weight that is packed and frozen; pack a trained bitnet_jit.BitLinear, or put an "
    "adapter beside the layer with bitnet_jit.add_lora"
)
NO_MEMORY = (
    "weight: {action} asks for its memory, but the weight is packed; layer.dequantize() makes a tensor of floats"
)
READ_WHOLE = (  # methods that read memory without an operation
    torch.Tensor.__array__,
    torch.Tensor.__deepcopy__,
    torch.Tensor.__format__,
    torch.Tensor.__reduce_ex__,
    torch.Tensor.__repr__,
    torch.Tensor.numpy,
    torch.Tensor.tolist,
)
REFUSALS = {  # functions that never become an operation, and would be lost or would read address 0
    torch.Tensor.data.__set__: REFUSED.format(action="setting .data"),  # type: ignore[attr-defined]
    torch.Tensor.__setitem__: REFUSED.format(action="an assignment to its elements"),
    **{
        getattr(torch.Tensor, name): NO_MEMORY.format(action=f"{name}()")
        for name in ("__dlpack__", "data_ptr", "pin_memory", "share_memory_", "storage", "untyped_storage")
    },
}
SETTERS = {  # refused unless the value is None or False, as it is already
    **{getattr(torch.Tensor, name).__set__: f"setting .{name}" for name in ("grad", "requires_grad")},
    torch.Tensor.requires_grad_: "requires_grad_()",
}


class DenseWeight(torch.Tensor):
    """A tensor that is computed when its values are read, and cannot be written.

    Args:
        values: makes the values: a tensor of that shape, dtype and device.
        shape: of the values.
        dtype: of the values.
        device: of the values.
        strides: of the values; None is contiguous.

    Raises:
        InvalidInput: an operation writes into it, or it is told to require a gradient.

    >>> weight = DenseWeight(lambda: torch.ones(2, 3), (2, 3), torch.float32, torch.device("cpu"))
    >>> weight.shape, weight.requires_grad, (weight @ torch.ones(3)).tolist()
    (torch.Size([2, 3]), False, [3.0, 3.0])
    """

    _values: Callable[[], torch.Tensor]

    @staticmethod
    def __new__(
        cls,
        values: Callable[[], torch.Tensor],
        shape: tuple[int, ...],
        dtype: torch.dtype,
        device: torch.device,
        strides: tuple[int, ...] | None = None,
    ) -> Self:
        self: Self = torch.Tensor._make_wrapper_subclass(cls, shape, strides, dtype=dtype, device=device)  # type: ignore[attr-defined]
        self._values = values
        return self

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Let torch handle the call, unless it never becomes an operation."""
        kwargs = kwargs or {}
        if func in REFUSALS and isinstance(args[0], cls):
            raise InvalidInput(REFUSALS[func])
        if func in SETTERS and isinstance(args[0], cls):
            value = (*args, *kwargs.values(), True)[1]
            if value is not None and value is not False:
                raise InvalidInput(REFUSED.format(action=SETTERS[func]))
        if func in READ_WHOLE:
            args, kwargs = with_values((args, kwargs))
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation on the values; its views are as frozen as they are."""
        kwargs = kwargs or {}
        if any(isinstance(written, cls) for written in written_to(func, args, kwargs)):
            raise InvalidInput(REFUSED.format(action=func.name()))
        if func is torch.ops.aten.detach.default:
            weight: DenseWeight = args[0]
            return cls(weight._values, weight.shape, weight.dtype, weight.device, weight.stride())
        args, kwargs = with_values((args, kwargs))
        output = func(*args, **kwargs)
        if not any(returned.alias_info is not None for returned in func._schema.returns):
            return output
        return tree_map_only(
            torch.Tensor, lambda view: cls(lambda: view, view.shape, view.dtype, view.device, view.stride()), output
        )


def written_to(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Any]:
    """Yield the arguments that an operation writes to, also from inside lists."""
    for position, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            yield from tree_iter(args[position] if position < len(args) else kwargs.get(argument.name))


def with_values(tree: Any) -> Any:
    """Return the same arguments with every stand-in replaced by its values."""
    return tree_map_only(DenseWeight, lambda weight: weight._values(), tree)


class ReadsDense:
    """A base of layers without a `weight` of floats, before nn.Module: reading `.weight` gives a stand-in.

    An assignment raises InvalidInput, where nn.Module would take a parameter that nobody ever reads.
    """

    in_features: int
    out_features: int
    weight_dtype: torch.dtype

    def _dense(self) -> torch.Tensor:
        """Return the values of the weight that the layer computes with, (N, K) of weight_dtype."""
        raise NotImplementedError

    def _place(self) -> torch.device:
        """Return the device of the layer's tensors."""
        raise NotImplementedError

    @property
    def weight(self) -> torch.Tensor:
        """Return a stand-in for w_q * w_scale, (N, K) of `weight_dtype`: see `dense_weight.py`."""
        if torch.compiler.is_compiling():
            return self._dense()  # a graph drops it where only its dtype or its shape is read
        return DenseWeight(self._dense, (self.out_features, self.in_features), self.weight_dtype, self._place())

    @weight.setter
    def weight(self, value: Any) -> None:  # noqa: ARG002  any value
        raise InvalidInput(REFUSED.format(action=f"setting the weight of a {type(self).__name__}"))

    def register_parameter(self, name: str, param: Any) -> None:
        """Register a parameter as nn.Module does, but refuse names that are properties of the class."""
        if isinstance(getattr(type(self), name, None), property):
            raise InvalidInput(REFUSED.format(action=f"setting the {name} of a {type(self).__name__}"))
        super().register_parameter(name, param)  # type: ignore[misc]
