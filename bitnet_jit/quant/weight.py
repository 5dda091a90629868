"""Absmean quantization of a torch weight, and back (BitNet b1.58, arXiv 2402.17764, eq. 1-3).

    w_scale = max(mean|w|, 1e-5)                  summed in float64, rounded once to float32
    w_q     = clip(round(w / w_scale), -1, 1)     IEEE division, half to even

The mean is taken over the whole weight, over each row, or over each group of a row's inputs. With one scale for the
tensor this is `reference.quantize_weight` bit for bit, on every device; a row or a group is quantized as a separate
tensor would be.
"""

from collections.abc import Iterator

import torch

from bitnet_jit.errors import InvalidInput
from bitnet_jit.problem import EPS
from bitnet_jit.quant.checks import check_grouping

CHUNK_ELEMENTS = 2**17  # float64 values that stay in a CPU's cache: three times as fast as one long pass


def quantize_weight(w: torch.Tensor, scale: str = "tensor", group_size: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantize a weight by its absolute mean.

    Args:
        w: (N, K) floating point; half types are widened to float32 first.
        scale: the part that shares a scale: "tensor", "row" or "group".
        group_size: inputs in a group with scale="group" (the last may be short), else 0.

    Returns:
        w_q (N, K) int8 in {-1, 0, 1} and w_scale float32: (), (N,) or (N, ceil(K / group_size)).
        Where w holds NaN or infinity the scale does too, and the codes mean nothing.

    Raises:
        InvalidInput: w is no matrix of floats, `scale` is unknown, or group_size does not go with it.

    >>> w_q, w_scale = quantize_weight(torch.tensor([[2.0, -0.1], [-3.0, 0.9]]))
    >>> w_q.tolist(), w_scale.item()
    ([[1, 0], [-1, 1]], 1.5)
    """
    if w.dim() != 2 or not w.is_floating_point():
        raise InvalidInput(f"w: expected floating point (N, K), got {w.dtype} {tuple(w.shape)}")
    group_size = check_grouping(scale, group_size)
    w = w.detach().float()
    w_scale = absmean(w, scale, group_size)
    w_q = (w / expand_scale(w_scale, w.shape[1], group_size)).round_().clamp_(-1, 1)
    return w_q.to(torch.int8), w_scale


def dequantize_weight(w_q: torch.Tensor, w_scale: torch.Tensor, group_size: int = 0) -> torch.Tensor:
    """Return w_q * w_scale, (N, K) float32, of codes (N, K) int8 and scales of the tensor, of rows or of groups.

    >>> dequantize_weight(torch.tensor([[1, 0], [-1, 1]], dtype=torch.int8), torch.tensor([2.0, 3.0])).tolist()
    [[2.0, 0.0], [-3.0, 3.0]]
    """
    return w_q * expand_scale(w_scale, w_q.shape[1], group_size)


def expand_scale(w_scale: torch.Tensor, in_features: int, group_size: int) -> torch.Tensor:
    """Return a scale (), (N,) or (N, groups) in a shape that broadcasts against w (N, in_features)."""
    if w_scale.dim() == 2:
        return w_scale.repeat_interleave(min(group_size, in_features), 1)[:, :in_features]
    return w_scale[:, None] if w_scale.dim() == 1 else w_scale


def absmean(w: torch.Tensor, scale: str, group_size: int) -> torch.Tensor:
    """Return the scale of w (N, K) float32, at least EPS: sums and division in float64, rounded once."""
    if scale == "tensor":
        total = torch.stack([piece.abs_().sum() for piece in wide_pieces(w)]).sum()
        mean = total / max(w.numel(), 1)
    else:
        mean = torch.cat([row_means(piece.abs_(), group_size or max(w.shape[1], 1)) for piece in wide_pieces(w)])
        mean = mean if scale == "group" else mean[:, 0]
    return mean.to(dtype=torch.float32, device=w.device).clamp_(min=EPS)


def row_means(w: torch.Tensor, group_size: int) -> torch.Tensor:
    """Return the mean of every group of a row of w (n, K) float64: (n, ceil(K / group_size)); the last may be short."""
    return torch.stack([group.sum(1) / max(group.shape[1], 1) for group in torch.split(w, group_size, 1)], 1)


def wide_pieces(w: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield float64 copies of some rows of w (N, K) each: several on the CPU, one elsewhere."""
    if w.device.type == "mps":
        w = w.cpu()  # Apple's GPUs have no float64
    rows = max(1, CHUNK_ELEMENTS // max(w.shape[1], 1)) if w.device.type == "cpu" else max(len(w), 1)
    return (piece.to(torch.float64, copy=True) for piece in torch.split(w, rows))
