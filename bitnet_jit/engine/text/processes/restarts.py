"""`Restarts`: when a process that has ended is started anew, and when no more."""

import time
from collections import deque
from dataclasses import dataclass, field

PAUSE_S = 0.25  # before the first start anew; twice as long before each next one
MAX_PAUSE_S = 30.0
MAX_ENDS = 6  # within WITHIN_S: after one more there is something wrong that a start does not mend
WITHIN_S = 600.0
WORKED_S = 120.0  # a process that worked for so long ends for another reason than those before


@dataclass
class Restarts:
    """The ends of the processes of one worker.

    >>> restarts = Restarts()
    >>> [restarts.pause(worked_s=1.0) for _ in range(7)]
    [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, None]
    """

    _ends: deque[float] = field(default_factory=deque)

    def pause(self, worked_s: float) -> float | None:
        """Return how many seconds after an end to start anew; None: never.

        Args:
            worked_s: for how long the process was ready.
        """
        if worked_s > WORKED_S:
            self._ends.clear()
        self._ends.append(now := time.monotonic())
        while self._ends[0] < now - WITHIN_S:
            self._ends.popleft()
        if len(self._ends) > MAX_ENDS:
            return None
        return float(min(MAX_PAUSE_S, PAUSE_S * 2 ** (len(self._ends) - 1)))
