"""Quantization of an output head to int8, with a scale per row, and back; `reference.quantize_head` has the formula.

A head is large: it is quantized piece by piece, so that no second copy in floats is made of it.
"""

import torch

from bitnet_jit.errors import InvalidInput

CHUNK_ELEMENTS = 2**20  # of the head, in float32 at a time; they stay in a CPU's caches
GPU_CHUNK_ELEMENTS = 2**24  # on other devices, where each piece is a dozen launches


def quantize_head(head: torch.Tensor, codes: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantize each row of an output head by its absolute maximum.

    Args:
        head: (V, K) floating point; half types are widened to float32 first.
        codes: memory for the codes, (V, K) int8 on the head's device; None: it is allocated.

    Returns:
        Codes (V, K) int8 in -127..127 and scales (V,) float32, max|row| / 127. Rows of zeros have the scale 0; a row
        with NaN or infinity has codes 0 and the scale NaN.

    Raises:
        InvalidInput: head is no matrix of floats, or has no column; or codes has another shape, dtype or device.

    >>> quantize_head(torch.tensor([[1.0, -0.5], [0.0, 0.0]]))
    (tensor([[127, -64],
            [  0,   0]], dtype=torch.int8), tensor([0.0079, 0.0000]))
    """
    if head.dim() != 2 or not head.is_floating_point() or not head.shape[1]:
        raise InvalidInput(f"head: expected floating point (V, K), got {head.dtype} {tuple(head.shape)}")
    head = head.detach()
    if codes is not None and (codes.shape != head.shape or codes.dtype != torch.int8 or codes.device != head.device):
        expected = f"int8 {tuple(head.shape)} on {head.device}"
        raise InvalidInput(f"codes: expected {expected}, got {codes.dtype} {tuple(codes.shape)} on {codes.device}")
    if codes is None:
        codes = torch.empty(head.shape, dtype=torch.int8, device=head.device)
    scale = torch.empty(len(head), dtype=torch.float32, device=head.device)
    step = max(1, (CHUNK_ELEMENTS if head.device.type == "cpu" else GPU_CHUNK_ELEMENTS) // head.shape[1])
    for start in range(0, len(head), step):
        part = slice(start, start + step)
        codes[part], scale[part] = quantize_rows(head[part].float())
    return codes, scale


def quantize_rows(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return codes (n, K), whole numbers in float32, and scales (n,) of rows (n, K) float32."""
    absmax = rows.abs().amax(1)
    # a division by a float32 tensor: torch turns division by a Python number into a product on some devices
    scale = absmax / torch.full_like(absmax, 127)
    bad = ~torch.isfinite(scale)
    divisor = torch.where(bad | (scale == 0), 1.0, scale)[:, None]
    codes = (torch.where(bad[:, None], 0.0, rows) / divisor).round_().clamp_(-127, 127)
    return codes, torch.where(bad, torch.nan, scale)


def dequantize_head(codes: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Return codes (..., K) int8 times their rows' scales (...) float32: (..., K) float32.

    >>> dequantize_head(torch.tensor([[127, -64]], dtype=torch.int8), torch.tensor([0.5]))
    tensor([[ 63.5000, -32.0000]])
    """
    return codes * scale[..., None]
