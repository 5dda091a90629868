"""The two ends of a step: rows of token ids, and the token with the largest logit of each row."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bitnet_jit.reference.rows import F32


def embedding(ids: ArrayLike, table: ArrayLike, table_scale: ArrayLike | None = None) -> NDArray[np.float32]:
    """Return the rows (M, K) of ids (M,) in a table (N, K), times their scales (N,); NaN for ids outside of it.

    >>> embedding([1, 2, -1], np.array([[1, 2], [3, -4]], np.int8), [1.0, 0.5]).tolist()
    [[1.5, -2.0], [nan, nan], [nan, nan]]
    """
    ids, table = np.asarray(ids), np.asarray(table)
    inside = (ids >= 0) & (ids < len(table))
    rows = np.where(inside, ids, 0)
    y = table[rows].astype(F32)
    if table_scale is not None:
        y = y * np.asarray(table_scale, F32)[rows, None]
    return np.where(inside[:, None], y, F32(np.nan))


def greedy(logits: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
    """Return the first largest of each row of logits (M, N): its place, itself, and the place or -1, (M,) each.

    NaN is larger than any number. The third result is -1 where the largest logit is NaN or infinite.

    >>> [part.tolist() for part in greedy([[0.0, 2.0, 2.0], [1.0, np.nan, np.inf]])]
    [[1, 1], [2.0, nan], [1, -1]]
    """
    logits = np.asarray(logits, F32)
    tokens = logits.argmax(1)
    largest = np.take_along_axis(logits, tokens[:, None], 1)[:, 0]
    return tokens, largest, np.where(np.isfinite(largest), tokens, -1)
