"""The decorators of every jitted function here, the disk cache behind it, and compile-time values as Numba types.

Numba's own cache does not see an edit in another file (an intrinsic's), and two processes that compile two signatures
at once can leave an index that names the other's code. Here each compiled signature is one file, named by a hash of
the signature, the target and all sources of this package, written beside and renamed.
"""

import hashlib
import logging
import pickle
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numba
import platformdirs
from llvmlite import ir
from numba import types
from numba.core import compiler, typing
from numba.core.caching import _Cache
from numba.core.imputils import lower_getattr_generic
from numba.extending import NativeValue, models, overload, register_model, unbox

from bitnet_jit.files import write_beside_and_rename
from bitnet_jit.kernels.numba.once import no_garbage_collection, only_outermost

logger = logging.getLogger(__name__)


class StaticType(types.Type):
    """A value known when a kernel is compiled (a frozen dataclass, a string), as the type of an argument without data.

    So one module-level function is compiled once a config, and each is found again in the disk cache (closures never
    are).
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
    found = getattr(typ.value, name)
    return ir.Constant(ir.IntType(64), int(found)) if isinstance(found, int) else context.get_dummy_value()


OPTIONS = {"nogil": True, "error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}


def jit(function: Callable) -> Any:
    """Compile as a part of a kernel, without the GIL; once, where Numba would compile anew for each literal."""
    dispatcher = numba.njit(**OPTIONS)(function)
    template = dispatcher.get_call_template
    dispatcher.get_call_template = lambda args, kws: template([types.unliteral(arg) for arg in args], kws)
    return dispatcher


def one_of(choose: Callable[[Any], Any]) -> Any:
    """A function that stands for one of several jitted ones, so that a kernel compiles only what it runs.

    Args:
        choose: from the value of the first argument (static) to a jitted function, which takes the same arguments.
    """

    def stand_in(first, *others):
        raise TypeError("only jitted code calls this")

    def chosen(first, *others):
        return choose(first.value).py_func

    overload(stand_in, jit_options=OPTIONS, strict=False)(chosen)
    return stand_in


def kernel(function: Callable) -> Any:
    """Compile a kernel, what Python calls: without the GIL, and kept on disk."""
    dispatcher = numba.njit(nogil=True, error_model="numpy", no_cfunc_wrapper=True)(function)
    dispatcher._cache = DiskCache(function)
    return dispatcher


def compiled(function: Any, *signature: types.Type) -> Callable:
    """The entry point of a kernel for a signature: calling it skips the look-up of argument types."""
    with only_outermost(function.py_func.__qualname__), no_garbage_collection():
        return function.compile(signature)


class DiskCache(_Cache):
    """One file a compiled signature; a folder that cannot be written is said once and done without."""

    def __init__(self, function: Callable) -> None:
        self._name = f"{function.__module__}.{function.__qualname__}"
        self._enabled = True

    @property
    def cache_path(self) -> str:
        return str(cache_folder())

    def enable(self) -> None:
        self._enabled = True

    def disable(self) -> None:
        self._enabled = False

    def flush(self) -> None:
        for file in cache_folder().glob(f"{self._name}-*"):
            file.unlink(missing_ok=True)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        target_context.refresh()
        file = self._file(sig, target_context.codegen())
        if not self._enabled or not file.exists():
            return None
        try:
            key, payload = pickle.loads(file.read_bytes())
            if key == self._key(sig, target_context.codegen()):
                return compiler.CompileResult._rebuild(target_context, *payload)
        except (OSError, EOFError, pickle.UnpicklingError, ValueError, TypeError, AttributeError, ImportError) as error:
            logger.warning("ignoring the cached kernel %s: %s", file, error)
        return None

    def save_overload(self, sig: Any, data: Any) -> None:
        if not self._enabled:
            return
        file = self._file(sig, data.codegen)
        content = pickle.dumps((self._key(sig, data.codegen), data._reduce()), pickle.HIGHEST_PROTOCOL)
        try:
            write_beside_and_rename(file, content)
        except OSError as error:
            self._enabled = False
            logger.warning("cannot keep compiled kernels in %s (%s); they are compiled anew next time", file, error)

    def _key(self, sig: Any, codegen: Any) -> tuple[str, ...]:
        return (self._name, str(sig), str(codegen.magic_tuple()), source_hash())

    def _file(self, sig: Any, codegen: Any) -> Path:
        name = hashlib.sha256("\0".join(self._key(sig, codegen)).encode()).hexdigest()[:24]
        return cache_folder() / f"{self._name.rpartition('.numba.')[2]}-{name}.pickle"


@cache
def cache_folder() -> Path:
    """Where compiled kernels are kept: NUMBA_CACHE_DIR, else the platform's cache folder of the user."""
    base = Path(numba.config.CACHE_DIR) if numba.config.CACHE_DIR else platformdirs.user_cache_path("bitnet_jit")
    return base / "numba" / source_hash()[:16]


@cache
def source_hash() -> str:
    """A hash of every source of this package and of the compilers' versions."""
    digest = hashlib.sha256(f"{numba.__version__} {sys.version}".encode())
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()
