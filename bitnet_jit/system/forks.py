"""Forks: a child has none of its parent's threads, and pools that believe it has.

`import bitnet_jit` registers the hook, so that it is there before the first fork that matters. In the child our kernels
run on the calling thread (`kernels/numba/threads/fork.py`), and torch is told to do the same: its attention and its
matrix products would wait for ever for threads that are not there.
"""

import os
import sys
from collections.abc import Callable


class Forks:
    """A record of whether this process was forked since the package was imported.

    Attributes:
        happened: whether it was, so that it is a child.
    """

    def __init__(self) -> None:
        self.happened = False
        self._actions: list[Callable[[], None]] = []
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._become_child)

    def in_child(self, action: Callable[[], None]) -> None:
        """Run an action in every child that is forked from now on, and at once where this process is one."""
        self._actions.append(action)
        if self.happened:
            action()

    def _become_child(self) -> None:
        self.happened = True
        for action in self._actions:
            action()
        set_num_threads = getattr(sys.modules.get("torch"), "set_num_threads", None)
        if set_num_threads is not None:  # torch is imported, and not in the middle of it
            set_num_threads(1)


FORKS = Forks()
