"""Hooks that the package's top installs, so that a layer can ask one above it without importing it."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # `import bitnet_jit` imports this file, and should import little
    from collections.abc import Callable
    from typing import Any

    from bitnet_jit.problem import Problem
    from bitnet_jit.runtime.entries import Tuned


class Hooks:
    """The hooks of this process.

    Attributes:
        on_miss: (problem, device) -> what tuning measured, or None where it could not; asked for a problem of which the
            user has no choice. None: nobody tunes.
    """

    on_miss: "Callable[[Problem, Any], Tuned | None] | None" = None


HOOKS = Hooks()
