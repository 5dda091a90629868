"""Every environment variable that the package reads, in one place."""

import os
from dataclasses import dataclass
from pathlib import Path

from bitnet_jit.arguments import show
from bitnet_jit.errors import InvalidInput

MAX_THREADS = 4096  # more than any machine has cores


@dataclass(frozen=True)
class Settings:
    """What BITNET_JIT_* variables say.

    Attributes:
        num_threads: BITNET_JIT_NUM_THREADS, CPU threads of our kernels; None follows torch.
        cache: BITNET_JIT_CACHE, the folder of what tuning found; None is the platform's folder for caches. A folder of
            a user whom this machine does not know ("~nobody/x") stays as it is written, and is no place to keep things.
        autotune: BITNET_JIT_AUTOTUNE, tune a problem when it is first asked for; otherwise only `autotune` tunes.
    """

    num_threads: int | None = None
    cache: Path | None = None
    autotune: bool = False


def read_settings(environ: dict[str, str] | None = None) -> Settings:
    """Return the settings from the environment.

    Raises:
        InvalidInput: a variable holds something that cannot be meant.
    """
    environ = dict(os.environ) if environ is None else environ
    cache = environ.get("BITNET_JIT_CACHE")
    return Settings(
        num_threads=_positive(environ, "BITNET_JIT_NUM_THREADS"),
        cache=_expanded(Path(cache)) if cache else None,
        autotune=_switch(environ, "BITNET_JIT_AUTOTUNE"),
    )


def _expanded(path: Path) -> Path:
    """Return a path with its "~" replaced by the user's home, or as it is where nobody knows that home."""
    try:
        return path.expanduser()
    except RuntimeError:  # pathlib's word for it
        return path


def _positive(environ: dict[str, str], name: str) -> int | None:
    value = environ.get(name)
    if not value:
        return None
    digits = value.lstrip("0")
    if not value.isdecimal() or not digits:
        raise InvalidInput(f"{name}: expected a positive whole number, got {show(value)}")
    if len(digits) > len(str(MAX_THREADS)) or int(digits) > MAX_THREADS:
        raise InvalidInput(f"{name}: expected at most {MAX_THREADS}, got {show(value)}")
    return int(digits)


def _switch(environ: dict[str, str], name: str) -> bool:
    value = environ.get(name) or "0"
    if value not in ("0", "1"):
        raise InvalidInput(f"{name}: expected 0 or 1, got {value!r}")
    return value == "1"
