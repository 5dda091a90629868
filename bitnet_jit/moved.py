"""Old names of modules that were documented and have moved: an import gives the module and a DeprecationWarning.

A finder at the end of sys.meta_path is asked for a name only where no other finder has it. It knows the names of a
table. Its class has no base: `importlib.abc` would double the time of `import bitnet_jit`.
"""

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = {
    "bitnet_jit.models.embedded": "bitnet_jit.checkpoints.embedded",
    "bitnet_jit.models.text": "bitnet_jit.generation.text",
}


class MovedFinder:
    """A finder and loader of the modules of `MOVED` by their old names."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002  the import system passes it
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        """Return a spec where the name is an old one, else None."""
        return ModuleSpec(fullname, self) if fullname in MOVED else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> None:
        """Leave it to the import system to make a module, whose place `exec_module` gives to the moved one."""

    def exec_module(self, module: ModuleType) -> None:
        """Put the module of the new name in the place of `module`, and warn about the old name."""
        old = module.__name__
        new = MOVED[old]
        warnings.warn(f"{old} has moved to {new}", DeprecationWarning, stacklevel=2)
        sys.modules[old] = importlib.import_module(new)


def install() -> None:
    """Append the finder to sys.meta_path, once."""
    if not any(isinstance(finder, MovedFinder) for finder in sys.meta_path):
        sys.meta_path.append(MovedFinder())
