"""Tuned choices on disk: one readable JSON file per problem, which all processes of a user share.

A file is named by its problem and a digest of all that the choice depends on: the problem, the device, and the versions
of the packages that compile kernels. It is written beside and renamed, so a reader sees a whole file or none. A file
that is damaged, of another key, or of a kernel that has changed since is a miss, and the log says why; one that cannot
be written is kept in memory, and a warning says so once. Where there is no place for files at all, nothing is kept.
"""

import errno
import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from itertools import chain
from pathlib import Path
from typing import Any

import platformdirs

from bitnet_jit.kernels import registry
from bitnet_jit.kernels.kernel import Config, Kernel
from bitnet_jit.problem import Problem
from bitnet_jit.runtime.entries import FORMAT, Key, Tuned, asked_of, canonical, parse, parse_entry
from bitnet_jit.settings import read_settings
from bitnet_jit.system.files import unfinished, write_beside_and_rename
from bitnet_jit.system.reading import parse_json, read_json

logger = logging.getLogger(__name__)

DIGITS = 20  # of the digest, in a file's name
MAX_BYTES = 2**20  # of a file
OLD = 3600  # seconds after which the writer of an unfinished file must have died


class NoPlace(OSError):
    """There is no folder to keep files in: the user has no home, or that of another one is meant who is not there."""


class TuningCache:
    """Tuned choices in a folder.

    Args:
        folder: where the files lie; None: `tuned` in the folder that BITNET_JIT_CACHE names, or else in the platform's
            folder for caches. It is made when something is written.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._unwritten: dict[str, Tuned] = {}
        self._told = False
        self._reasons: set[str] = set()

    @property
    def folder(self) -> Path:
        """Return where the files lie. Raises NoPlace where there is nowhere to keep them."""
        if self._folder is None:
            self._folder = (read_settings().cache or users_folder()) / "tuned"
        if str(self._folder).startswith("~"):
            raise NoPlace(errno.EINVAL, "BITNET_JIT_CACHE names a user who is not known", str(self._folder))
        return self._folder

    def path(self, problem: Problem) -> Path:
        """Return the file of a problem, whether it is there or not."""
        return self._place(key_of(problem))

    def _place(self, key: Key) -> Path:
        return self.folder / file_name(key)

    def find(self, problem: Problem) -> Tuned | None:
        """Return what is known of a problem, or None."""
        return self.find_key(key_of(problem))

    def find_key(self, key: Key) -> Tuned | None:
        """Return what is known under a key, or None."""
        name = file_name(key)
        if name in self._unwritten:
            return self._unwritten[name]
        try:
            return parse(read_json(self.folder / name, MAX_BYTES), key)
        except FileNotFoundError:
            pass
        except OSError as error:
            self._tell_once(error)
        except ValueError as error:
            logger.info("%s is passed over: %s", self.folder / name, error)
        return None

    def _tell_once(self, error: OSError) -> None:
        """Say once for each reason that nothing can be looked up."""
        if (reason := error.strerror or str(error)) not in self._reasons:
            self._reasons.add(reason)
            level = logging.WARNING if isinstance(error, NoPlace) else logging.INFO
            logger.log(level, "what tuning found cannot be looked up: %s", error)

    def store(self, problem: Problem, tuned: Tuned) -> bool:
        """Keep a choice, on disk if that is possible, for this process in any case; return whether on disk."""
        return self.store_key(key_of(problem), tuned)

    def store_key(self, key: Key, tuned: Tuned) -> bool:
        """Keep a choice under a key, as `store`."""
        name = file_name(key)
        date = datetime.now(UTC).isoformat(timespec="seconds")
        entry = {"format": FORMAT, "key": key, "choice": asdict(tuned), "date": date}
        try:
            content = (json.dumps(entry, indent=1) + "\n").encode()
            write_beside_and_rename(self.folder / name, content, follow_links=False)
        except OSError as error:
            self._unwritten[name] = tuned
            if not self._told:
                self._told = True
                logger.warning("what tuning finds is kept for this process only: it cannot be written (%s)", error)
            return False
        sweep(self.folder)
        self._unwritten.pop(name, None)
        return True

    def entries(self) -> Iterator[tuple[Key, Tuned]]:
        """Yield everything on disk that is whole, of whatever device and version.

        Raises:
            OSError: there is a folder, and it does not tell what it holds.
        """
        try:
            names = sorted(name for name in os.listdir(self.folder) if name.endswith(".json"))
        except FileNotFoundError:
            return
        for name in names:
            with suppress(OSError, ValueError):
                yield parse_entry(read_json(self.folder / name, MAX_BYTES))

    @contextmanager
    def locked(self, name: str, timeout: float = -1.0) -> Iterator[bool]:
        """Hold a lock against every other process that uses this folder; where none can be had, go on without.

        Args:
            name: what is locked.
            timeout: most seconds to wait for whoever holds it; -1: as long as it takes.

        Yields:
            False where the time ran out: another process holds it still.
        """
        import filelock  # takes its time, and is needed by those alone that tune

        lock: Any = None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = filelock.FileLock(self.folder / f"{name}.lock")
            lock.acquire(timeout)
        except filelock.Timeout:
            yield False
            return
        except (OSError, NotImplementedError) as error:  # NotImplementedError: a file system without locks
            logger.info("no lock is held while tuning: %s", error)
            lock = None
        try:
            yield True
        finally:
            if lock is not None:
                lock.release()


def users_folder() -> Path:
    """Return the platform's folder for the user's caches. Raises NoPlace where the user has no home."""
    try:
        folder = platformdirs.user_cache_path("bitnet_jit")
    except RuntimeError as error:  # its word for it; older versions give "~" back
        raise NoPlace(errno.EINVAL, f"there is no folder for caches; set BITNET_JIT_CACHE ({error})") from error
    if not folder.is_absolute():
        raise NoPlace(errno.EINVAL, "there is no folder for caches; set BITNET_JIT_CACHE", str(folder))
    return folder


def file_name(key: Key) -> str:
    """Return the name of a key's file."""
    digest = hashlib.sha256(canonical(key).encode()).hexdigest()[:DIGITS]
    return "{op}-{out_features}x{in_features}-m{rows}-{}.json".format(digest, **key["problem"])


def key_of(problem: Problem) -> Key:
    """Return all that a choice depends on, as JSON has it."""
    return {"problem": asked_of(problem), "device": problem.device, "versions": versions()}


@cache
def versions() -> dict[str, str]:
    """Return the installed versions of the packages that compile kernels."""
    installed = {}
    for package in dict.fromkeys(package for backend in registry.BACKENDS.values() for package in backend.packages):
        try:
            installed[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return installed


def config_fields(config: Config) -> dict[str, Any]:
    """Return a config as JSON has it; nothing where a kernel has none."""
    values: dict[str, Any] = {} if config is None else parse_json(canonical(asdict(config)))
    return values


def recall(tuned: Tuned, problem: Problem, fitting: Sequence[Kernel]) -> tuple[Kernel, Config]:
    """Return the kernel and config that are meant, among the kernels that fit.

    Raises:
        ValueError: there are no such ones any more; the message says what is missing.
    """
    kernel = next((kernel for kernel in fitting if kernel.name == tuned.kernel), None)
    if kernel is None:
        raise ValueError(f"the kernel {tuned.kernel} does not take the problem")
    if kernel.version != tuned.version:
        raise ValueError(f"{kernel.name} is of version {kernel.version}, {tuned.version} was timed")
    for config in chain.from_iterable(list_configs(problem) for list_configs in (kernel.configs, kernel.space)):
        if config_fields(config) == tuned.config:
            return kernel, config
    raise ValueError(f"{kernel.name} has no config {tuned.config}")


def sweep(folder: Path) -> None:
    """Remove what processes that were killed had begun to write, where the folder lets us."""
    with suppress(OSError):  # one that may be entered and not listed
        for path in unfinished(folder):
            with suppress(OSError):  # another process sweeps too
                if time.time() - path.stat().st_mtime > OLD:
                    path.unlink()
