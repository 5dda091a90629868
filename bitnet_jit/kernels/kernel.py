"""The record that every kernel fills in: what it computes, how it is tuned, and when it must not be asked."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bitnet_jit.problem import Problem

Config = Any  # a frozen dataclass of the kernel's own file


def as_listed(_: "Problem") -> int:
    """Return the priority of a kernel that stands where it is listed."""
    return 0


def no_more(_: "Problem") -> tuple[Config, ...]:
    """Return the space of a kernel whose configs are all there is to try."""
    return ()


@dataclass(frozen=True)
class Kernel:
    """One implementation of an op in one backend.

    Attributes:
        name: unique, "backend.what".
        op: the op it implements.
        bind: (problem, config) -> what runs the kernel on its backend's arrays: a callable, or a record that the
            backend's `bind_call` knows. All decisions and compilation happen here; running only allocates and launches.
        configs: problem -> the configs that a quick tuning times, likeliest best first: the first is what runs untuned.
        unsupported_reason: problem -> None, or the reason in words.
        space: problem -> what a full tuning times beside them: all that might be the fastest on some device.
        priority: problem -> where the kernel stands among those of its backend that fit: the highest runs untuned.
        version: raised when results or configs change meaning; tuned choices of another version are stale.
    """

    name: str
    op: str
    bind: "Callable[[Problem, Config], Any]"
    configs: "Callable[[Problem], tuple[Config, ...]]"
    unsupported_reason: "Callable[[Problem], str | None]"
    space: "Callable[[Problem], tuple[Config, ...]]" = no_more
    priority: "Callable[[Problem], int]" = as_listed
    version: int = 1

    @property
    def backend(self) -> str:
        """Return the name of its backend."""
        return self.name.partition(".")[0]

    def all_configs(self, problem: "Problem") -> tuple[Config, ...]:
        """Return its configs and its space, each config once."""
        return tuple(dict.fromkeys((*self.configs(problem), *self.space(problem))))
