"""The source of a team's threads, for `parallel.run_team`: chosen here and nowhere else.

The pool of our own on Linux, which may borrow the threads of torch's OpenMP; elsewhere those themselves, or Python's
behind the same functions. A forked child has none of its parent's threads: there the address is 0, whether the fork
came before the first call of a kernel or after it.
"""

import ctypes
import logging
from functools import cache

from bitnet_jit.kernels.numba.threads.openmp import (
    Functions,
    PythonTeam,
    libgomp_of_system,
    libgomp_of_torch,
    load_libgomp,
)
from bitnet_jit.kernels.numba.threads.pool import Pool
from bitnet_jit.kernels.numba.threads.system_calls import system_calls_unsupported_reason
from bitnet_jit.system.forks import FORKS

logger = logging.getLogger(__name__)


class Fork:
    """The source of threads in this process.

    Attributes:
        name: the source, in words.
        address: of memory that begins with the addresses of two functions: one like GOMP_parallel, and one that numbers
            a team's threads (or null). Both get the address itself as a further argument. It is 0 where only the
            calling thread may run.
    """

    def __init__(self) -> None:
        self.name, self.address = "", 0
        self._keep: object = None
        self._pool: Pool | None = None
        if not FORKS.happened:
            self._find()
        FORKS.in_child(self._become_single)

    def _find(self) -> None:
        openmp = load_libgomp(libgomp_of_torch())
        if (reason := system_calls_unsupported_reason()) is None:
            try:
                self._take_pool(openmp)
                return
            except OSError as error:
                reason = str(error)
        logger.debug("no pool of threads: %s", reason)
        self._take(openmp or load_libgomp(libgomp_of_system()) or PythonTeam().functions)

    def _take_pool(self, openmp: Functions | None) -> None:
        self._keep = openmp
        self._pool = Pool((openmp.parallel, openmp.number) if openmp else (0, 0))
        borrowed = f", and those of {openmp.name} while they are awake" if openmp else ""
        self.name, self.address = f"threads of our own{borrowed}", self._pool.address

    def _take(self, functions: Functions) -> None:
        addresses = (ctypes.c_void_p * 2)(functions.parallel, functions.number)
        self._keep = functions, addresses
        self.name, self.address = functions.name, ctypes.addressof(addresses)

    def _become_single(self) -> None:
        self.name, self.address = "one thread (a forked child)", 0
        if self._pool is not None:
            self._pool.forget()


@cache
def process_fork() -> Fork:
    """Return a source of threads that all callers in this process share."""
    return Fork()
