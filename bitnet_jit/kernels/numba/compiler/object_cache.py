"""Compiled kernels on disk: one file per kernel and signature, which is checked before its code is used.

    file = MAGIC | SHA-256 of the body | body          body = JSON header | newline | LLVM's object code

The header names the kernel, its signature, the target, a hash of our sources and the compilers' versions, and the
symbols by which the code is entered. Nothing is unpickled. A file is used only if it lies in a folder that its
user alone can write, its digest is right and its header is the one that is asked for; otherwise it is a miss, and the
log says why. docs/security.md tells of the trust in it.
"""

import hashlib
import json
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite
import numba
import platformdirs
from numba import _dynfunc
from numba.core.environment import Environment, lookup_environment

from bitnet_jit import problem
from bitnet_jit.system.private_folder import PrivateFolder

logger = logging.getLogger(__name__)

MAGIC = b"bitnet_jit object code 1\n"
DIGEST_BYTES = 32
SUFFIX = ".pickle"  # the name of these files since they were pickles, by which scripts find them; no pickle is read
RUNTIME = ("NRT_", "numba_")  # how the symbols of Numba's own functions begin
ENVIRONMENT = "_ZN08NumbaEnv"  # how the symbols of environments begin
SOURCES = ("kernels/numba/**/*.py", "problem.py")  # below the package: constants of the latter are compiled in
Key = list[str]


@dataclass(frozen=True)
class ObjectCode:
    """A compiled kernel.

    Attributes:
        entry: symbol of the function that Python calls.
        environment: symbol of the pointer to the kernel's environment, which that function wants to be set.
        code: an object file as LLVM makes it.
    """

    entry: str
    environment: str
    code: bytes


class ObjectCache:
    """Compiled kernels in a folder; one that cannot be used is said once and done without.

    Args:
        folder: where the files lie, or None for no cache at all.
    """

    def __init__(self, folder: PrivateFolder | None) -> None:
        self._folder = folder

    @property
    def place(self) -> str:
        """Return where compiled kernels are kept, in words."""
        return "not kept" if self._folder is None else f"kept in {self._folder.path}"

    def find(self, key: Key) -> ObjectCode | None:
        """Return the kernel that is stored under a key, or None."""
        if self._folder is None:
            return None
        name = file_name(key)
        try:
            return decode(self._folder.read(name), key)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            logger.warning("compiling anew what %s should hold: %s", self._folder.path / name, error)
            return None

    def store(self, key: Key, kernel: ObjectCode) -> None:
        """Keep a compiled kernel, if that is possible."""
        if self._folder is None:
            return
        try:
            self._folder.write(file_name(key), encode(key, kernel))
        except OSError as error:
            path, self._folder = self._folder.path, None
            logger.warning("cannot keep compiled kernels in %s (%s); they are compiled anew next time", path, error)


def encode(key: Key, kernel: ObjectCode) -> bytes:
    """Return the content of a file."""
    body = json.dumps([key, kernel.entry, kernel.environment]).encode() + b"\n" + kernel.code
    return MAGIC + hashlib.sha256(body).digest() + body


def decode(content: bytes, key: Key) -> ObjectCode:
    """Return the kernel that a file holds.

    Raises:
        ValueError: it is damaged, or of another key; the message says which.
    """
    start = len(MAGIC) + DIGEST_BYTES
    if content[: len(MAGIC)] != MAGIC or len(content) < start:
        raise ValueError("it is no file of compiled code, or of another format")
    body = memoryview(content)[start:]
    if hashlib.sha256(body).digest() != content[len(MAGIC) : start]:
        raise ValueError("its digest does not fit its content: it is damaged or cut off")
    head, _, code = bytes(body).partition(b"\n")
    try:
        said, entry, environment = json.loads(head)
    except (ValueError, TypeError, RecursionError):
        raise ValueError("its header is none of ours") from None
    if said != key:
        raise ValueError("it is of another kernel, target or version")
    return ObjectCode(str(entry), str(environment), code)


def file_name(key: Key) -> str:
    """Return the name of a key's file."""
    digest = hashlib.sha256("\0".join(key).encode()).hexdigest()[:24]
    return f"{key[0].rpartition('.numba.')[2]}-{digest}{SUFFIX}"


def extract(result: Any) -> ObjectCode | None:
    """Return the code of one of Numba's compile results; None where it needs more than its code to run.

    That is so where it refers to Python's objects, or may raise.
    """
    module = result.library._final_module
    names = [name for name in (variable.name for variable in module.global_variables) if name.startswith(ENVIRONMENT)]
    environments = [environment for environment in map(lookup_environment, names) if environment is not None]
    if result.reload_init or any(environment.consts for environment in environments):
        return None
    if missing := sorted(function.name for function in module.functions if is_of_numba(function)):
        logger.debug("not keeping %s, whose code needs %s", result.fndesc.qualname, ", ".join(missing))
        return None
    described = result.fndesc
    code = result.library._get_compiled_object()
    return ObjectCode(described.llvm_cpython_wrapper_name, described.env_name, code)


def is_of_numba(function: Any) -> bool:
    """Return whether a function of a module is one of Numba's runtime: to raise, to count references, to allocate.

    Numba gives these to its engine when it first compiles something that needs them; a process that loads code alone
    may not have them, and LLVM ends it then.
    """
    return bool(function.is_declaration) and function.name.startswith(RUNTIME)


def load(kernel: ObjectCode, function: Callable[..., Any], target: Any) -> Callable[..., Any]:
    """Return the entry point of compiled code, linked into this process by Numba's engine.

    Args:
        kernel: its code.
        function: the Python function that was compiled.
        target: Numba's target context.
    """
    codegen = target.codegen()
    library = codegen.create_library(kernel.entry)
    library.enable_object_caching()
    library._set_compiled_object(kernel.code)
    library._finalize_final_module()
    environment = Environment(function.__globals__)
    environment.env_name = kernel.environment
    codegen.set_env(kernel.environment, environment)
    address = codegen._engine.get_function_address(kernel.entry)
    module, name = sys.modules[function.__module__], function.__name__
    entry: Callable[..., Any] = _dynfunc.make_function(
        module, name, f"compiled {name}", address, environment, (library,)
    )
    return entry


def key_of(function: Callable[..., Any], signature: tuple[Any, ...], target: Any) -> Key:
    """Return all that compiled code depends on."""
    name = f"{function.__module__}.{function.__qualname__}"
    return [name, str(signature), str(target.codegen().magic_tuple()), source_hash()]


@cache
def user_cache() -> ObjectCache:
    """Return the user's cache: in NUMBA_CACHE_DIR, else in the platform's cache folder of the user; else none."""
    try:
        base = Path(numba.config.CACHE_DIR) if numba.config.CACHE_DIR else platformdirs.user_cache_path("bitnet_jit")
    except (RuntimeError, KeyError, OSError) as error:  # a user without a home
        logger.warning("compiled kernels are not kept, as there is no cache folder (%s); set NUMBA_CACHE_DIR", error)
        return ObjectCache(None)
    return ObjectCache(PrivateFolder(base / "numba" / source_hash()[:16]))


@cache
def source_hash() -> str:
    """Return a hash of every source that compiled code depends on, and of the compilers' versions."""
    return hash_sources(Path(problem.__file__).parent)


def hash_sources(package: Path) -> str:
    """Return the hash for a copy of this package in a folder: an edit of a source, or a new one, changes it."""
    digest = hashlib.sha256(f"{numba.__version__} {llvmlite.__version__} {sys.version}".encode())
    for file in sorted(file for pattern in SOURCES for file in package.glob(pattern)):
        digest.update(file.relative_to(package).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()
