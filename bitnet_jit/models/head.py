"""The output head: logits in float32 from a head of any dtype, which is never held in float32 as a whole."""

import torch
from torch.nn import functional as F

CHUNK_ELEMENTS = {"cpu": 2**18}  # of the head, widened at a time: as much as a CPU's cache holds
LARGE_CHUNK_ELEMENTS = 2**26  # on other devices


def project(hidden: torch.Tensor, head: torch.Tensor) -> torch.Tensor:
    """Multiply hidden (..., K) floating point by head (V, K) transposed -> (..., V) float32.

    >>> project(torch.tensor([1.0, 2.0]), torch.tensor([[1.0, 1.0], [0.0, -1.0]], dtype=torch.bfloat16))
    tensor([ 3., -2.])
    """
    x = hidden.float()
    step = max(1, CHUNK_ELEMENTS.get(head.device.type, LARGE_CHUNK_ELEMENTS) // head.shape[1])
    if head.dtype == torch.float32 or len(head) <= step:
        return F.linear(x, head.float())
    y = x.new_empty(*x.shape[:-1], len(head))
    # one buffer for all pieces: memory that is new to the process costs more than the products
    buffer = x.new_empty(step, head.shape[1])
    for start in range(0, len(head), step):
        piece = head[start : start + step]
        y[..., start : start + step] = F.linear(x, buffer[: len(piece)].copy_(piece))
    return y
