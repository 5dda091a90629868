"""What tuning found, on disk: one readable JSON file a problem, which all processes of a user share.

A file is named by its problem and a digest of all that the choice depends on: the problem, the device, and the versions
of the packages that compile kernels. It is written beside and renamed, so a reader sees a whole file or none. A file
that is damaged, of another key, or of a kernel that has changed since is a miss, and the log says why; one that cannot
be written is kept in memory, and a warning says so once.
"""

import hashlib
import json
import logging
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from itertools import chain
from pathlib import Path
from types import NoneType
from typing import Any

import platformdirs

from bitnet_jit.files import unfinished, write_beside_and_rename
from bitnet_jit.kernels.kernel import Config, Kernel
from bitnet_jit.problem import Problem
from bitnet_jit.runtime.settings import read_settings

logger = logging.getLogger(__name__)

FORMAT = 2  # of the files
COMPILERS = ("triton", "numba", "torch")  # packages on whose version a kernel's time depends
OF_THE_DEVICE = ("device", "gpu")  # fields of a problem that its fingerprint tells in one
PROBLEM_FIELDS = {field.name for field in fields(Problem)} - set(OF_THE_DEVICE)
DIGITS = 20  # of the digest, in a file's name
OLD = 3600  # seconds after which the writer of an unfinished file must have died
TIMES = ("microseconds", "default_microseconds")
KINDS = {  # what each field of a choice may be in JSON
    "kernel": (str,),
    "version": (int,),
    "config": (dict,),
    "origin": (str,),
    "effort": (str,),
    **dict.fromkeys(TIMES, (int, float)),
    "runner_up": (str, NoneType),
    "runner_up_microseconds": (int, float, NoneType),
}


Key = dict[str, Any]


@dataclass(frozen=True)
class Tuned:
    """What was found for a problem.

    Attributes:
        kernel: the name of the kernel.
        version: the kernel's version when it was timed.
        config: the fields of its config; empty where it has none.
        microseconds: what a call took, the median.
        default_microseconds: what it took with the kernel and config that run untuned.
        origin: "measured" on this machine, "imported", or "shipped" with the package.
        effort: how long was looked, of `search.EFFORTS`.
        runner_up: the next best kernel and config in words, the usual one among them; None: there was no other.
        runner_up_microseconds: what that one took.
    """

    kernel: str
    version: int
    config: dict[str, Any]
    microseconds: float
    default_microseconds: float
    origin: str = "measured"
    effort: str = "quick"
    runner_up: str | None = None
    runner_up_microseconds: float | None = None


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

    @property
    def folder(self) -> Path:
        """Where the files lie."""
        if self._folder is None:
            self._folder = (read_settings().cache or platformdirs.user_cache_path("bitnet_jit")) / "tuned"
        return self._folder

    def path(self, problem: Problem) -> Path:
        """The file of a problem, whether it is there or not."""
        return self._place(key_of(problem))

    def _place(self, key: Key) -> Path:
        digest = hashlib.sha256(canonical(key).encode()).hexdigest()[:DIGITS]
        return self.folder / "{op}-{out_features}x{in_features}-m{rows}-{}.json".format(digest, **key["problem"])

    def find(self, problem: Problem) -> Tuned | None:
        """What is known of a problem, or None."""
        return self.find_key(key_of(problem))

    def find_key(self, key: Key) -> Tuned | None:
        """What is known under a key, or None."""
        path = self._place(key)
        if path.name in self._unwritten:
            return self._unwritten[path.name]
        try:
            return parse(path.read_text(), key)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            logger.info("%s is passed over: %s", path, error)
            return None

    def store(self, problem: Problem, tuned: Tuned) -> None:
        """Keep what was found, on disk if that is possible, for this process in any case."""
        self.store_key(key_of(problem), tuned)

    def store_key(self, key: Key, tuned: Tuned) -> None:
        """The same under a key."""
        path = self._place(key)
        date = datetime.now(UTC).isoformat(timespec="seconds")
        entry = {"format": FORMAT, "key": key, "choice": asdict(tuned), "date": date}
        try:
            write_beside_and_rename(path, (json.dumps(entry, indent=1) + "\n").encode())
            sweep(self.folder)
            self._unwritten.pop(path.name, None)
        except OSError as error:
            self._unwritten[path.name] = tuned
            if not self._told:
                self._told = True
                logger.warning(
                    "what tuning finds is kept for this process only: %s cannot be written (%s)", path, error
                )

    def entries(self) -> Iterator[tuple[Key, Tuned]]:
        """Everything on disk that is whole, of whatever device and version."""
        for path in sorted(self.folder.glob("*.json")):
            with suppress(OSError, ValueError):
                yield parse_entry(json.loads(path.read_text()))

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
        except OSError as error:
            logger.info("no lock in %s: %s", self.folder, error)
            lock = None
        try:
            yield True
        finally:
            if lock is not None:
                lock.release()


def key_of(problem: Problem) -> Key:
    """All that a choice depends on, as JSON has it."""
    return {"problem": asked_of(problem), "device": problem.device, "versions": versions()}


def asked_of(problem: Problem) -> dict[str, Any]:
    """A problem without its device, as JSON has it."""
    return {field.name: getattr(problem, field.name) for field in fields(problem) if field.name in PROBLEM_FIELDS}


@cache
def versions() -> dict[str, str]:
    """The installed versions of the packages that compile kernels."""
    found = {}
    for package in COMPILERS:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def canonical(value: Any) -> str:
    """JSON in one way of writing."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def parse(text: str, key: Key) -> Tuned:
    """A file's text -> what it tells.

    Raises:
        ValueError: it is damaged, not ours, or of another key; the message says which.
    """
    found, tuned = parse_entry(json.loads(text))
    if found != key:
        raise ValueError("it is of another problem, device or version")
    return tuned


def parse_entry(entry: Any) -> tuple[Key, Tuned]:
    """An entry -> its key, whatever that is, and what it tells.

    Raises:
        ValueError: it is damaged or not ours; the message says which.
    """
    if not isinstance(entry, dict) or entry.get("format") != FORMAT:
        raise ValueError(f"it is not of format {FORMAT}")
    key, choice = entry.get("key"), entry.get("choice")
    if not isinstance(key, dict) or set(key) != {"problem", "device", "versions"}:
        raise ValueError("its key has not the fields that it should have")
    if not isinstance(key["problem"], dict) or set(key["problem"]) != PROBLEM_FIELDS:
        raise ValueError("its problem has not the fields that it should have")
    if not isinstance(choice, dict) or set(choice) != set(KINDS):
        raise ValueError("its choice has not the fields that it should have")
    if wrong := [name for name, kinds in KINDS.items() if type(choice[name]) not in kinds]:
        raise ValueError(f"{wrong[0]} is {choice[wrong[0]]!r}")
    if wrong := [name for name in TIMES if not 0 < choice[name] < math.inf]:
        raise ValueError(f"{wrong[0]} is {choice[wrong[0]]!r}")
    return key, Tuned(**choice)


def config_fields(config: Config) -> dict[str, Any]:
    """A config as JSON has it; nothing where a kernel has none."""
    found: dict[str, Any] = {} if config is None else json.loads(canonical(asdict(config)))
    return found


def recall(tuned: Tuned, problem: Problem, fitting: Sequence[Kernel]) -> tuple[Kernel, Config]:
    """The kernel and config that are meant, among the kernels that fit.

    Raises:
        ValueError: there are no such ones any more; the message says what is missing.
    """
    kernel = next((kernel for kernel in fitting if kernel.name == tuned.kernel), None)
    if kernel is None:
        raise ValueError(f"the kernel {tuned.kernel} does not take the problem")
    if kernel.version != tuned.version:
        raise ValueError(f"{kernel.name} is of version {kernel.version}, {tuned.version} was timed")
    for config in chain.from_iterable(found(problem) for found in (kernel.configs, kernel.space)):
        if config_fields(config) == tuned.config:
            return kernel, config
    raise ValueError(f"{kernel.name} has no config {tuned.config}")


def sweep(folder: Path) -> None:
    """Remove what processes that were killed had begun to write."""
    for path in unfinished(folder):
        with suppress(FileNotFoundError):  # another process sweeps too
            if time.time() - path.stat().st_mtime > OLD:
                path.unlink()
