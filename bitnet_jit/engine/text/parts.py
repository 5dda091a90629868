"""`Parts`: a step that failed, in halves that are run again, so that an error ends the requests that it belongs to.

An error does not tell whose it is. Halves of a step that fails are run one after another, and halves of those that fail
again; where a step of one request fails, the error is that request's. So a step of N requests takes 2 N more at most,
and each token is computed log2(N) + 2 times, whether one request fails or all do. An error that does not come again
ends nobody.
"""

from collections import deque
from collections.abc import Iterator

from bitnet_jit.engine.text.scheduler import Plan


class Parts:
    """The parts of one step that have not been run.

    Args:
        plan: the step.

    >>> parts = Parts({"a": 9, "b": 1, "c": 1})
    >>> for part in parts:
    ...     print(part, parts.split(part, part) if "b" in part else "runs")
    {'a': 9, 'b': 1, 'c': 1} True
    {'a': 9, 'b': 1} True
    {'c': 1} runs
    {'a': 9} runs
    {'b': 1} False
    """

    def __init__(self, plan: Plan) -> None:
        self._left = deque([plan])
        self._is_whole = True

    def __iter__(self) -> Iterator[Plan]:
        """Yield the part that is to be run next, until none is left."""
        while self._left:
            yield self._left.popleft()

    def split(self, plan: Plan, left: Plan) -> bool:
        """Put the halves of a part that failed behind the others; return False where it was one request, tried again.

        A step of one request is tried once more, unless it is a part itself: the error may not come again.

        Args:
            plan: the part.
            left: what of it is still to be run.
        """
        if len(plan) == 1 and not self._is_whole:
            return False
        self._is_whole = False
        items = [*left.items()]
        middle = (len(items) + 1) // 2
        self._left += [dict(half) for half in (items[:middle], items[middle:]) if half]
        return True

    def clear(self) -> None:
        """Forget the parts that are left: they will be planned anew."""
        self._left.clear()
