"""Size classes: sizes of buffers are rounded up, so that a buffer fits many requests that are nearly alike."""

ALIGN = 64  # bytes: a line of a CPU's cache, and the widest register
STEPS = 8  # classes per doubling: a buffer is at most an eighth larger than what was asked for


def size_class(num_bytes: int) -> int:
    """Return the size of the smallest class that holds so many bytes: a multiple of ALIGN.

    >>> [size_class(n) for n in (1, 64, 65, 1024, 1025, 2**20 + 1)]
    [64, 64, 128, 1024, 1152, 1179648]
    """
    step = max(ALIGN, 1 << max(0, (num_bytes - 1).bit_length() - STEPS.bit_length()))
    return -(-max(1, num_bytes) // step) * step
