"""Register an op with torch: a schema, one implementation for every device, a fake one for tracing, and its gradient.

`torch.library.custom_op` costs 4 to 9 us per call and `register_autograd` 4 more; a plain `Library` costs 2.5, which at
M = 1 is a tenth of a layer. So gradients are registered by hand: the autograd kernel looks whether one is wanted at
all, and calls the implementation straight where no tracing mode could want to see the call.
"""

from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import torch
from torch.autograd import forward_ad

from bitnet_jit.errors import InvalidInput
from bitnet_jit.ops.nested import on_all_rows

if TYPE_CHECKING:
    from bitnet_jit.ops.shapes import Seen
    from bitnet_jit.ops.spec import OpSpec

LIBRARY = torch.library.Library("bitnet_jit", "DEF")
NESTED_DEVICES = ("CPU", "CUDA")
AUTOCAST_DEVICES = ("cpu", "cuda", "mps", "xpu")
Watcher = Callable[["OpSpec", "Seen"], None]
WATCHER: ContextVar[Watcher | None] = ContextVar("watcher", default=None)  # sees ops whose tensors have no values
PLAIN = (torch.Tensor, torch.nn.Parameter)

num_dispatch_modes, num_function_modes = torch._C._len_torch_dispatch_stack, torch._C._len_torch_function_stack
transform, tracing_state = torch._C._functorch.peek_interpreter_stack, torch._C._get_tracing_state
profiling, autocasting = torch._C._autograd._profiler_enabled, torch._C._is_any_autocast_enabled


def register(
    spec: "OpSpec",
    implementation: Callable[..., Any],
    fake: Callable[..., Any],
    function: type[torch.autograd.Function] | None = None,
    autocast: bool = False,
) -> None:
    """Register `bitnet_jit::<name>`; the arguments are those of `op.define`."""
    name = spec.name
    LIBRARY.define(spec.schema, tags=(torch.Tag.needs_contiguous_strides, torch.Tag.pt2_compliant_tag))
    LIBRARY.impl(name, implementation, "CompositeExplicitAutograd")
    torch.library.register_fake(f"bitnet_jit::{name}", checked_and_watched(spec, fake), lib=LIBRARY)
    overload = overload_of(name)
    if spec.written:
        LIBRARY.impl(name, resolve_others(spec, overload), "Negative")
    for device_type in AUTOCAST_DEVICES:
        key = f"Autocast{torch._C._dispatch_key_for_device(device_type)}"
        LIBRARY.impl(name, autocast_kernel(overload, key, device_type if autocast else None), key)
    if function is not None:
        LIBRARY.impl(name, autograd_kernel(overload, implementation, function), "Autograd", with_keyset=True)
        for device_type in NESTED_DEVICES:  # in inference mode there is no autograd kernel on the way
            LIBRARY.impl(name, lambda *args: on_all_rows(overload, args), f"NestedTensor{device_type}")


def overload_of(name: str) -> Any:
    """Return torch's object for an op."""
    return getattr(torch.ops.bitnet_jit, name).default


def checked_and_watched(spec: "OpSpec", fake: Callable[..., Any]) -> Callable[..., Any]:
    """Return the fake implementation of an op: it refuses what the op refuses, and tells a watcher."""

    def call(*args: Any) -> Any:
        seen = spec.check(args)
        if (watcher := WATCHER.get()) is not None:
            watcher(spec, seen)
        return fake(*args)

    return call


def eager(name: str, implementation: Callable[..., Any], takes_nested: bool) -> Callable[..., Any]:
    """Return an op as our modules call it: straight to its implementation where torch has nothing to add, 3 us less.

    The dispatcher is passed by only in plain eager calls: no gradient wanted, no autocast, tracing, profiling,
    compiling, functorch transform or mode in force, and no subclass of torch.Tensor among the arguments.
    """
    overload = overload_of(name)
    compiling, grad_enabled = torch.compiler.is_dynamo_compiling, torch.is_grad_enabled
    tensors = TensorPlaces(overload)

    def call(*args: Any) -> Any:
        if compiling() or in_force() or not tensors.are_plain(args) or (takes_nested and args[0].is_nested):
            return overload(*args)
        if grad_enabled() and tensors.want_gradient(args):
            return overload(*args)
        return implementation(*args)

    return call


class TensorPlaces:
    """The questions of a call about its tensors, as source text for their places among the arguments.

    Attributes:
        places: of the tensors.
        are_plain: arguments -> whether all tensors hold their numbers themselves, as they are. A sharded one does not,
            nor a subclass, one on "meta", or a view with torch's bit for negated numbers. What is no tensor or is
            missing is not plain either: torch or the check of the arguments refuses it in words.
        want_gradient: arguments -> whether one of the tensors wants a gradient.
    """

    def __init__(self, overload: Any) -> None:
        kinds = enumerate(str(argument.type) for argument in overload._schema.arguments)
        places = {place: kind == "Tensor" for place, kind in kinds if "Tensor" in kind}
        plain = [(PLAIN_TENSOR if required else PLAIN_OR_NONE).format(place) for place, required in places.items()]
        self.places = tuple(places)
        enough, known = f"len(args) > {max(places)}", "not args[0].is_meta"
        self.are_plain = written(" and ".join((enough, *plain, known)))
        self.want_gradient = written(" or ".join(map(WANTS_GRADIENT.format, places)))


PLAIN_TENSOR = "type(t := args[{}]) in PLAIN and not t.is_neg()"
PLAIN_OR_NONE = "((t := args[{}]) is None or type(t) in PLAIN and not t.is_neg())"
WANTS_GRADIENT = "((t := args[{}]) is not None and t.requires_grad)"


def written(condition: str) -> Callable[[tuple[Any, ...]], bool]:
    """Return a function that tells whether a condition, given as source text, holds for the arguments of a call."""
    holds: Callable[[tuple[Any, ...]], bool] = eval(f"lambda args: {condition}", {"PLAIN": PLAIN})
    return holds


def in_force() -> bool:
    """Return whether something wants to see every op: a mode, transform, tracer, the profiler, autocast, forward AD."""
    return bool(
        num_dispatch_modes()
        or num_function_modes()
        or transform() is not None
        or tracing_state() is not None
        or profiling()
        or autocasting()
        or forward_ad._current_level >= 0
    )


def autograd_kernel(overload: Any, implementation: Any, function: Any) -> Callable[..., Any]:
    """Return the kernel for the Autograd dispatch key of an op whose arguments are all positional."""
    after_autograd, grad_enabled = torch._C._after_autograd_keyset, torch.is_grad_enabled
    tensors = TensorPlaces(overload)

    def kernel(keyset: Any, *args: Any) -> Any:
        if args[0] is not None and args[0].is_nested:
            return on_all_rows(overload, args)
        if transform() is not None or forward_ad._current_level >= 0:
            if (grad_enabled() and tensors.want_gradient(args)) or any_tangent(args, tensors.places):
                return with_derivatives(overload, function.surrogate, args)
            return overload.redispatch(keyset & after_autograd, *args)
        if grad_enabled() and tensors.want_gradient(args):
            return function.apply(*args)
        if tensors.are_plain(args) and not num_dispatch_modes():
            return implementation(*args)
        return overload.redispatch(keyset & after_autograd, *args)

    return kernel


def resolve_others(spec: "OpSpec", overload: Any) -> Callable[..., Any]:
    """Return the kernel for views with torch's bit for negated numbers: they are resolved, but none is written into."""
    written = [(place, argument.name) for place, argument in enumerate(spec.arguments) if argument in spec.written]

    def kernel(*args: Any) -> Any:
        for place, name in written:
            if args[place] is not None and args[place].is_neg():
                raise InvalidInput(f"{name}: is written into, so that it has to be contiguous, got a negated view")
        return overload(*(arg.resolve_neg() if isinstance(arg, torch.Tensor) else arg for arg in args))

    return kernel


def any_tangent(args: tuple[Any, ...], positions: tuple[int, ...]) -> bool:
    """Return whether one of the tensors at these positions carries a derivative forward."""
    if forward_ad._current_level < 0:
        return False
    tensors = (args[position] for position in positions)
    return any(tensor is not None and forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors)


def with_derivatives(overload: Any, surrogate: Callable[..., torch.Tensor], args: tuple[Any, ...]) -> torch.Tensor:
    """Return the op's output, to the bit, with the derivatives of its surrogate: for torch.func and forward AD."""
    y: torch.Tensor = overload(*(arg.detach() if isinstance(arg, torch.Tensor) else arg for arg in args))
    like = surrogate(*args)
    return y + (like - like.detach())


def autocast_kernel(overload: Any, key: str, cast_device: str | None) -> Callable[..., Any]:
    """Return the kernel for an autocast key: the op with autocast off, so that its products stay exact."""
    excluded = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, key))

    def kernel(x: Any, *others: Any) -> Any:
        if cast_device is not None and x.is_floating_point() and x.dtype != torch.float64:
            x = x.to(torch.get_autocast_dtype(cast_device))
        with torch._C._ExcludeDispatchKeyGuard(excluded):
            return overload(x, *others)

    return kernel
