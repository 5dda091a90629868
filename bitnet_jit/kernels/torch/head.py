"""The output head in plain torch: floats widened to float32 piece by piece; int8 by exact sums of integers in float32.

Products of int8 codes are whole numbers of at most 127 * 128, so sums of 1,024 of them are exact in float32.
"""

import torch
from torch.nn import functional as F

from bitnet_jit.kernels.kernel import Config, Kernel
from bitnet_jit.kernels.torch.norm import always, no_configs
from bitnet_jit.problem import EPS, Problem

CHUNK_ELEMENTS = {"cpu": 2**18}  # of the head, widened at a time: as much as a CPU's cache holds
LARGE_CHUNK_ELEMENTS = 2**26  # on other devices
EXACT_INPUTS = 1024  # 127 * 128 * 1024 < 2^24
STEPS = 127 * 128  # of a code of x, in either direction


def rows_of_a_piece(head: torch.Tensor) -> int:
    """Return the number of the head's rows that are widened at a time."""
    return max(1, CHUNK_ELEMENTS.get(head.device.type, LARGE_CHUNK_ELEMENTS) // head.shape[1])


def float_logits(x: torch.Tensor, head: torch.Tensor) -> torch.Tensor:
    """Multiply x (M, K) by a head (V, K) of floats: (M, V) float32."""
    x, step = x.float(), rows_of_a_piece(head)
    if head.dtype == torch.float32 or len(head) <= step:
        return F.linear(x, head.float())
    y = x.new_empty(len(x), len(head))
    # one buffer for all pieces: memory that is new to the process costs more than the products
    buffer = x.new_empty(step, head.shape[1])
    for start in range(0, len(head), step):
        piece = head[start : start + step]
        y[:, start : start + step] = F.linear(x, buffer[: len(piece)].copy_(piece))
    return y


def quantize_hidden(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Quantize x (M, K) float32 to 128 hi + lo, both whole numbers in float32 (M, K), and scales (M,) float32."""
    absmax = x.abs().amax(1)
    bad = ~torch.isfinite(absmax)
    absmax = torch.where(bad, 1.0, absmax.clamp(min=EPS))
    # a division by a float32 tensor: torch turns division by a Python number into a product on some devices
    q = (torch.where(bad[:, None], 0.0, x) * (torch.full_like(absmax, STEPS) / absmax)[:, None]).round()
    hi = ((q + 64) / 128).floor()
    return hi, q - 128 * hi, torch.where(bad, torch.nan, absmax / torch.full_like(absmax, STEPS))


def exact_sums(codes: torch.Tensor, head: torch.Tensor) -> torch.Tensor:
    """Multiply codes (M, K), whole numbers in float32, by a piece of the head (n, K) int8: (M, n) int64, exactly."""
    sums = torch.zeros(len(codes), len(head), dtype=torch.int64, device=codes.device)
    for start in range(0, codes.shape[1], EXACT_INPUTS):
        part = slice(start, start + EXACT_INPUTS)
        sums += (codes[:, part] @ head[:, part].float().T).to(torch.int64)
    return sums


def int8_logits(x: torch.Tensor, head: torch.Tensor, head_scale: torch.Tensor) -> torch.Tensor:
    """Multiply x (M, K) by a head (V, K) of int8 with a scale per row: (M, V) float32."""
    hi, lo, x_scale = quantize_hidden(x.float())
    step = rows_of_a_piece(head)
    pieces = [(128 * exact_sums(hi, piece) + exact_sums(lo, piece)).float() for piece in torch.split(head, step)]
    return torch.cat(pieces, 1) * (x_scale[:, None] * head_scale)


def bind_head_logits(problem: Problem, config: Config):
    if problem.w_dtype == "int8":
        return int8_logits
    return lambda x, head, head_scale: float_logits(x, head)


KERNELS = (Kernel("torch.head_logits", "head_logits", bind_head_logits, no_configs, always),)
