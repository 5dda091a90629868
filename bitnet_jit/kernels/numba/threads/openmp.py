"""The source of a team's threads: two C functions, GOMP_parallel and omp_get_thread_num, for `parallel.run_team`.

torch's own libgomp where torch is loaded, so that one pool serves both; else the system's; else Python threads behind
the same signature, some 50 us per region. A forked child must not touch its parent's OpenMP pool: there the address is
0, whether the fork came before the first call of a kernel or after it.

threadpoolctl is not used: it lists every OpenMP library that is loaded, and does not tell on which one torch runs. The
path would still have to be opened for GOMP_parallel.
"""

import ctypes
import ctypes.util
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

from bitnet_jit.system.forks import FORKS

TEAM_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
FORK_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)


class Fork:
    """The source of threads in this process.

    Attributes:
        name: the source, in words.
        address: of two pointers: to a function like GOMP_parallel, and to one that numbers a team's threads (or null);
            0 where only the calling thread may run.
    """

    def __init__(self) -> None:
        self._keep: list[object] = []
        self.name, functions = self._find()
        self._functions = (ctypes.c_void_p * 2)(*functions)
        self.address = ctypes.addressof(self._functions)
        FORKS.in_child(self._become_single)

    def _find(self) -> tuple[str, tuple[int, int]]:
        for name in libgomp_candidates():
            try:
                library = ctypes.CDLL(name)
            except OSError:
                continue
            self._keep.append(library)
            return f"GOMP_parallel of {name}", (
                address_of(library.GOMP_parallel),
                address_of(library.omp_get_thread_num),
            )
        pool = PythonTeam()
        self._keep.append(pool)
        return "Python threads (no libgomp found)", (pool.address, 0)

    def _become_single(self) -> None:
        self.name, self.address = "one thread (a forked child)", 0


@cache
def process_fork() -> Fork:
    """Return a source of threads that all callers in this process share."""
    return Fork()


class PythonTeam:
    """GOMP_parallel out of Python threads: correct everywhere, slow to start."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=os.cpu_count() or 1, thread_name_prefix="bitnet_jit")
        self._callback = FORK_FUNCTION(self._fork)
        self.address = address_of(self._callback)

    def _fork(self, function: int, data: int, threads: int, flags: int) -> None:
        call = TEAM_FUNCTION(function)
        futures = [self._pool.submit(call, data) for _ in range(threads - 1)]
        call(data)
        for future in futures:
            future.result()


def libgomp_candidates() -> list[str]:
    """Return names of libraries to load, the best first."""
    names: list[str] = []
    if "torch" in sys.modules and (file := sys.modules["torch"].__file__):
        folder = Path(file).parent
        for place in (folder / "lib", folder.parent / "torch.libs"):
            names += sorted(str(library) for library in place.glob("libgomp*.so*"))
    system = ctypes.util.find_library("gomp") if sys.platform.startswith("linux") else None
    return names + ([system] if system else [])


def address_of(function: object) -> int:
    """Return the address of a C function."""
    return ctypes.cast(function, ctypes.c_void_p).value or 0  # type: ignore[arg-type]
