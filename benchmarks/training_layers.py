"""Layers that train, ours and peers', and what each of them has to give: the stack that is timed, and its check."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

import bitnet_jit
from bitnet_jit import reference
from bitnet_jit.quant import quantize_weight

Step = Callable[[], Sequence[torch.Tensor]]
ERROR = {torch.bfloat16: 0.02, torch.float32: 1e-3}  # of a result, relative to its norm


def peers(device: str) -> dict[str, Callable[[int, int], nn.Module]]:
    """Makers of layers (in_features, out_features) without bias, by name: those that are installed."""
    found: dict[str, Callable[[int, int], nn.Module]] = {
        "nn.Linear": lambda inputs, outputs: nn.Linear(inputs, outputs, bias=False),
        "BitLinear": lambda inputs, outputs: bitnet_jit.BitLinear(inputs, outputs, bias=False),
    }
    try:
        from transformers.integrations.bitnet import AutoBitLinear

        found["transformers"] = lambda inputs, outputs: AutoBitLinear(inputs, outputs, bias=False, online_quant=True)
    except ImportError:
        pass
    try:
        from onebitllms import BitNetLinear
    except ImportError:
        return found
    if device == "cuda":
        found["onebitllms"] = lambda inputs, outputs: BitNetLinear(inputs, outputs, bias=False)
    return found


class Stack(nn.Module):
    """Layers side by side, each with an input of its own."""

    def __init__(self, make: Callable[[int, int], nn.Module], shapes: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(make(inputs, outputs) for outputs, inputs in shapes)

    def forward(self, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        return [layer(x) for layer, x in zip(self.layers, inputs, strict=True)]


class Work:
    """Weights, inputs (1, rows, K) and gradients of the outputs, the same for all contenders."""

    def __init__(self, shapes: Sequence[tuple[int, int]], rows: int, dtype: torch.dtype, device: str) -> None:
        torch.manual_seed(0)
        self.shapes, self.device, self.dtype = shapes, device, dtype
        self.weights = [0.02 * torch.randn(shape, device=device) for shape in shapes]
        self.xs = [torch.randn(1, rows, inputs, device=device, dtype=dtype).requires_grad_() for _, inputs in shapes]
        self.dys = [torch.randn(1, rows, outputs, device=device, dtype=dtype) for outputs, _ in shapes]

    def step(self, make: Callable[[int, int], nn.Module], weight_dtype: torch.dtype, compiled: bool) -> Step:
        """Forward and backward of a stack: outputs, gradients of the inputs, gradients of the weights."""
        stack = Stack(make, self.shapes).to(self.device, weight_dtype)
        for parameter, weight in zip(stack.parameters(), self.weights, strict=True):
            parameter.data.copy_(weight)
        forward: Any = torch.compile(stack) if compiled else stack
        wanted = [*self.xs, *stack.parameters()]
        mixed = weight_dtype != self.dtype

        def run() -> Sequence[torch.Tensor]:
            with torch.autocast(self.device, self.dtype, enabled=mixed):
                ys = forward(self.xs)
            return [*ys, *torch.autograd.grad(ys, wanted, self.dys)]

        return run

    def check(self, results: Sequence[torch.Tensor], ternary: bool, weight_dtype: torch.dtype) -> float:
        """The largest error of a result relative to its norm, by float32 products of rounded factors.

        Raises:
            AssertionError: it is larger than sums in this dtype can make it.
        """
        count, worst = len(self.shapes), 0.0
        ys, dxs, dws = results[:count], results[count : 2 * count], results[2 * count :]
        for x, weight, dy, y, dx, dw in zip(self.xs, self.weights, self.dys, ys, dxs, dws, strict=True):
            w, x, dy, y, dx = weight.to(weight_dtype), x[0], dy[0], y[0], dx[0]
            factor_x, factor_w = rounded(x, w) if ternary else (x.detach().float(), w.to(x.dtype).float())
            wanted = factor_x @ factor_w.T, dy.float() @ factor_w, dy.float().T @ factor_x
            for found, exact in zip((y.detach(), dx, dw), wanted, strict=True):
                worst = max(worst, float((found.float() - exact).norm() / exact.norm()))
        assert worst < ERROR[self.dtype], f"a result is off by {worst:.4f} of its norm"
        return worst


def rounded(x: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What the quantizers make of x and of a weight, in float32."""
    x_q, x_scale = (
        torch.from_numpy(part).to(x.device) for part in reference.quantize_activation(x.detach().float().cpu())
    )
    w_q, w_scale = quantize_weight(weight)
    return x_q.float() * x_scale[..., None], w_q.float() * w_scale
