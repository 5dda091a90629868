"""The decorators of every jitted function here, and compile-time values as Numba types.

Numba's own disk cache does not see an edit in another file (an intrinsic's) and unpickles whatever lies there; two
processes that compile two signatures at once can leave an index that names the other's code. `object_cache.py` is ours.
"""

from collections.abc import Callable
from typing import Any

import numba
from llvmlite import ir
from numba import types
from numba.core import typing
from numba.core.compiler_lock import global_compiler_lock
from numba.core.imputils import lower_getattr_generic
from numba.extending import NativeValue, models, overload, register_model, unbox

from bitnet_jit.kernels.numba.compiler.object_cache import extract, key_of, load, user_cache
from bitnet_jit.kernels.numba.compiler.optimize_once import no_garbage_collection, only_outermost
from bitnet_jit.system.shielded import shielded


class StaticType(types.Type):
    """A value known when a kernel is compiled (a frozen dataclass, a string), as the type of an argument without data.

    So one module-level function is compiled once per config, and the disk cache holds each (it never finds closures).
    """

    def __init__(self, value: Any) -> None:
        self.value = value
        super().__init__(name=f"Static({value!r})")


@register_model(StaticType)
class StaticModel(models.OpaqueModel):
    pass


@unbox(StaticType)
def unbox_static(typ, obj, c):
    return NativeValue(c.context.get_dummy_value())


@typing.templates.infer_getattr
class StaticAttributes(typing.templates.AttributeTemplate):
    """spec.rows is a constant; spec.tile is static again."""

    key = StaticType

    def generic_resolve(self, typ, name):
        value = getattr(typ.value, name, None)
        if value is None:
            return None
        return types.int64 if isinstance(value, int) else StaticType(value)


@lower_getattr_generic(StaticType)
def static_attribute(context, builder, typ, value, name):
    constant = getattr(typ.value, name)
    return ir.Constant(ir.IntType(64), int(constant)) if isinstance(constant, int) else context.get_dummy_value()


OPTIONS = {"nogil": True, "error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}


def jit(function: Callable) -> Any:
    """Compile as a part of a kernel, without the GIL; once, where Numba would compile anew for each literal."""
    return compiled_once(function, OPTIONS)


def inlined(function: Callable) -> Any:
    """Compile as `jit` does, into whoever calls it: for larger functions that a kernel calls outside its team.

    A call that stays a call may fail as far as LLVM knows, and code that raises cannot be loaded from disk.
    """
    return compiled_once(function, OPTIONS | {"forceinline": True})


def compiled_once(function: Callable, options: dict[str, Any]) -> Any:
    """Return a dispatcher that takes numbers for numbers, whether they are literals or not."""
    dispatcher = numba.njit(**options)(function)
    template = dispatcher.get_call_template
    dispatcher.get_call_template = lambda args, kws: template([types.unliteral(arg) for arg in args], kws)
    return dispatcher


def one_of(choose: Callable[[Any], Any]) -> Any:
    """Return a function that stands for one of several jitted ones, so that a kernel compiles only the one it runs.

    Args:
        choose: from the value of the first argument (static) to a jitted function, which takes the same arguments.
    """

    def stand_in(first, *others):
        raise TypeError("only jitted code calls this")

    def chosen(first, *others):
        return choose(first.value).py_func

    overload(stand_in, jit_options=OPTIONS, strict=False)(chosen)
    return stand_in


class JitKernel:
    """A kernel, which Python calls: compiled without the GIL for each signature once, and kept on disk.

    Args:
        function: a function of a module, in code that Numba compiles.
    """

    def __init__(self, function: Callable) -> None:
        self._dispatcher = numba.njit(nogil=True, error_model="numpy", no_cfunc_wrapper=True)(function)
        self._function = function
        self._entries: dict[tuple[types.Type, ...], Callable] = {}

    def entry(self, *signature: types.Type) -> Callable:
        """Return the entry point for argument types: calling it skips the look-up of types."""
        if signature not in self._entries:
            self._entries[signature] = shielded(self._make, signature)
        return self._entries[signature]

    def _make(self, signature: tuple[types.Type, ...]) -> Callable:
        """Load the code from disk, or compile it and keep it there."""
        target, cache = self._dispatcher.targetctx, user_cache()
        with global_compiler_lock:
            key = key_of(self._function, signature, target)
            if (code := cache.find(key)) is not None:
                return load(code, self._function, target)
            with only_outermost(self._function.__qualname__), no_garbage_collection():
                entry: Callable = self._dispatcher.compile(signature)
            if (code := extract(self._dispatcher.overloads[signature])) is not None:
                cache.store(key, code)
            return entry


def kernel(function: Callable) -> JitKernel:
    """Make a function a kernel."""
    return JitKernel(function)


def compiled(function: JitKernel, *signature: types.Type) -> Callable:
    """Return the entry point of a kernel for a signature."""
    return function.entry(*signature)
