"""How an op is told to torch: a schema, one implementation for every device, a fake one for tracing, and its gradient.

`torch.library.custom_op` costs 4 to 9 us a call and `register_autograd` 4 more; a plain `Library` costs 2.5, which at
M = 1 is a tenth of a layer. So gradients are registered by hand: the autograd kernel looks whether one is wanted at
all, and calls the implementation straight where no tracing mode could want to see the call.
"""

from collections.abc import Callable
from typing import Any

import torch

LIBRARY = torch.library.Library("bitnet_jit", "DEF")
AUTOCAST_DEVICES = ("cpu", "cuda", "mps", "xpu")


def define(
    schema: str,
    implementation: Callable[..., Any],
    fake: Callable[..., Any],
    function: type[torch.autograd.Function] | None = None,
    autocast: bool = False,
) -> None:
    """Register `bitnet_jit::<schema>`.

    Args:
        schema: the op and its arguments, as `torch.library` writes them.
        implementation: computes on any device; the arguments are positional.
        fake: computes shapes and dtypes only.
        function: the op's autograd twin, whose apply takes the op's arguments.
        autocast: whether the first argument is cast to autocast's dtype, as nn.Linear does with its input.
    """
    name = schema.partition("(")[0]
    LIBRARY.define(schema, tags=(torch.Tag.needs_contiguous_strides, torch.Tag.pt2_compliant_tag))
    LIBRARY.impl(name, implementation, "CompositeExplicitAutograd")
    torch.library.register_fake(f"bitnet_jit::{name}", fake, lib=LIBRARY)
    overload = getattr(torch.ops.bitnet_jit, name).default
    for device_type in AUTOCAST_DEVICES:
        key = f"Autocast{torch._C._dispatch_key_for_device(device_type)}"
        LIBRARY.impl(name, autocast_kernel(overload, key, device_type if autocast else None), key)
    if function is not None:
        LIBRARY.impl(name, autograd_kernel(overload, implementation, function), "Autograd", with_keyset=True)


def autograd_kernel(overload, implementation, function) -> Callable[..., Any]:
    """The kernel for the Autograd dispatch key of an op whose arguments are all positional."""
    after_autograd = torch._C._after_autograd_keyset
    num_modes, grad_enabled = torch._C._len_torch_dispatch_stack, torch.is_grad_enabled
    # known beforehand, so that a call looks at its tensors only: 1.5 us less
    tensors = [i for i, argument in enumerate(overload._schema.arguments) if "Tensor" in str(argument.type)]

    def kernel(keyset, *args):
        if grad_enabled():
            for position in tensors:
                tensor = args[position]
                if tensor is not None and tensor.requires_grad:
                    return function.apply(*args)
        if type(args[0]) is torch.Tensor and not num_modes() and not args[0].is_meta:
            return implementation(*args)
        return overload.redispatch(keyset & after_autograd, *args)

    return kernel


def autocast_kernel(overload, key: str, cast_device: str | None) -> Callable[..., Any]:
    """The kernel for an autocast key: the op with autocast off, so that no product inside it loses its exactness."""
    excluded = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, key))

    def kernel(x, *others):
        if cast_device is not None and x.is_floating_point() and x.dtype != torch.float64:
            x = x.to(torch.get_autocast_dtype(cast_device))
        with torch._C._ExcludeDispatchKeyGuard(excluded):
            return overload(x, *others)

    return kernel
