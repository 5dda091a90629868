"""Compile a kernel in less time: optimize it once, not once per function, and collect garbage later.

Numba optimizes and emits machine code for every function that it compiles, then links it into its caller and does
so again: a kernel of thirty small functions costs more than twice its need. While `only_outermost` is in force,
functions that are compiled for the sake of another are left as they are; the outermost, into which all are linked, is
optimized whole. Where Numba's internals are not as they were when this was written, nothing changes but the time.
"""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from numba.core import codegen
from numba.core.compiler_lock import global_compiler_lock

LIBRARY, CODEGEN = codegen.CPUCodeLibrary, codegen.JITCPUCodegen
PATCHED = ((LIBRARY, "_optimize_final_module"), (LIBRARY, "_finalize_final_module"), (CODEGEN, "set_env"))


@contextmanager
def only_outermost(name: str) -> Iterator[None]:
    """Optimize and make runnable only libraries of functions with that (qualified) name, inside."""
    if not all(hasattr(owner, method) for owner, method in PATCHED):
        yield
        return
    with global_compiler_lock:  # before the methods are looked at: they may be another thread's of these
        optimize, finish, set_env = originals = [getattr(owner, method) for owner, method in PATCHED]

        def optimize_outermost(library) -> None:
            if library.name == name:
                optimize(library)

        def finish_outermost(library) -> None:
            if library.name == name:
                finish(library)
            else:
                library._finalize_dynamic_globals()
                library._finalized = True

        def set_env_of_outermost(self, env_name, env) -> None:
            if self._engine.get_global_value_address(env_name):
                set_env(self, env_name, env)

        replace((optimize_outermost, finish_outermost, set_env_of_outermost))
        try:
            yield
        finally:
            replace(originals)


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Let cycles wait, inside: compiling makes millions of objects that live; looking through them takes a sixth."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def replace(methods: Sequence[Callable[..., None]]) -> None:
    """Set the patched methods."""
    for (owner, name), method in zip(PATCHED, methods, strict=True):
        setattr(owner, name, method)
