"""Layers of which every n-th is of another kind: Qwen3.5's that attend, Gemma 3's that see all tokens."""


def every_nth(interval: int, num_layers: int) -> tuple[bool, ...]:
    """Return of each layer whether it is an n-th one.

    >>> every_nth(3, 4)
    (False, False, True, False)
    """
    return tuple((index + 1) % interval == 0 for index in range(num_layers))


def interval_of(flags: tuple[bool, ...]) -> int | None:
    """Return n where every n-th flag is set and no other; None where that is not so.

    >>> interval_of((False, True, False, True, False)), interval_of((True, False))
    (2, None)
    """
    interval = flags.index(True) + 1 if any(flags) else len(flags) + 1
    return interval if flags == every_nth(interval, len(flags)) else None
