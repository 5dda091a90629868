"""The number of cores that this process may use."""

import os


def available_cores() -> int:
    """Return the number of cores that this process may run on."""
    try:
        return len(os.sched_getaffinity(0))
    except (AttributeError, OSError):  # other systems than Linux, or a sandbox that does not let us ask
        return os.cpu_count() or 1
