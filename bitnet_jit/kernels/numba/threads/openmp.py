"""OpenMP's threads, and Python's in their stead: two C functions, like GOMP_parallel and omp_get_thread_num.

torch's own libgomp where torch is loaded, else the system's. threadpoolctl is not used: it lists every OpenMP library
that is loaded, and does not tell on which one torch runs. The path would still have to be opened for GOMP_parallel.
"""

import ctypes
import ctypes.util
import os
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

TEAM_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
FORK_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)


@dataclass(frozen=True)
class Functions:
    """The C functions of a source of threads.

    Attributes:
        name: the source, in words.
        parallel: the address of a function like GOMP_parallel; 0 for none.
        number: of one that numbers a team's threads, like omp_get_thread_num; 0 for none.
        owner: what has to live as long as they are called.
    """

    name: str
    parallel: int
    number: int
    owner: object


def load_libgomp(names: Iterable[str]) -> Functions | None:
    """Return the functions of the first library that can be loaded, or None."""
    for name in names:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        parallel, number = address_of(library.GOMP_parallel), address_of(library.omp_get_thread_num)
        return Functions(f"GOMP_parallel of {name}", parallel, number, library)
    return None


def libgomp_of_torch() -> list[str]:
    """Return the paths of libraries that torch may have loaded, the best first; none where torch is not imported."""
    if "torch" not in sys.modules or not (file := sys.modules["torch"].__file__):
        return []
    folder = Path(file).parent
    places = (folder / "lib", folder.parent / "torch.libs")
    return [str(library) for place in places for library in sorted(place.glob("libgomp*.so*"))]


def libgomp_of_system() -> list[str]:
    """Return the name of the system's library, if there is one."""
    name = ctypes.util.find_library("gomp") if sys.platform.startswith("linux") else None
    return [name] if name else []


class PythonTeam:
    """GOMP_parallel out of Python threads: correct everywhere, some 50 us per region."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=os.cpu_count() or 1, thread_name_prefix="bitnet_jit")
        self._callback = FORK_FUNCTION(self._fork)
        self.functions = Functions("Python threads (no libgomp)", address_of(self._callback), 0, self)

    def _fork(self, function: int, data: int, threads: int, flags: int) -> None:
        call = TEAM_FUNCTION(function)
        futures = [self._pool.submit(call, data) for _ in range(threads - 1)]
        call(data)
        for future in futures:
            future.result()


def address_of(function: object) -> int:
    """Return the address of a C function."""
    return ctypes.cast(function, ctypes.c_void_p).value or 0  # type: ignore[arg-type]
