"""The block that is timed in training: layers of ours and of peers, and the check of their results."""

import argparse
from collections.abc import Callable, Sequence
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import nn

import bitnet_jit
from benchmarks.harness.shapes import Shape, parse_shapes
from bitnet_jit import reference
from bitnet_jit.quant import quantize_weight

Step = Callable[[], Sequence[torch.Tensor]]
Make = Callable[[int, int], nn.Module]
ERROR = {torch.bfloat16: 0.02, torch.float32: 1e-3}  # of a result, relative to its norm
BLOCK = "2560x2560+640x2560+640x2560,2560x2560,6912x2560+6912x2560,2560x6912"  # of BitNet b1.58 2B-4T


def peers(device: str) -> dict[str, Make]:
    """Return the makers of layers (in_features, out_features) without bias that are installed, by name."""
    makers: dict[str, Make] = {
        "nn.Linear": lambda inputs, outputs: nn.Linear(inputs, outputs, bias=False),
        "BitLinear": lambda inputs, outputs: bitnet_jit.BitLinear(inputs, outputs, bias=False),
    }
    try:
        from transformers.integrations.bitnet import AutoBitLinear

        makers["transformers"] = lambda inputs, outputs: AutoBitLinear(inputs, outputs, bias=False, online_quant=True)
    except ImportError:
        pass
    try:
        from onebitllms import BitNetLinear
    except ImportError:
        return makers
    if device == "cuda":
        makers["onebitllms"] = lambda inputs, outputs: BitNetLinear(inputs, outputs, bias=False)
    return makers


def parse_block(text: str) -> tuple[tuple[Shape, ...], ...]:
    """Parse groups of layers that share an input: "64x32+16x32,32x64" is two of 32 inputs and one of 64."""
    groups = tuple(tuple(parse_shapes(part)[0] for part in group.split("+")) for group in text.split(","))
    for group in groups:
        if len({shape.in_features for shape in group}) > 1:
            raise argparse.ArgumentTypeError(
                f"layers that share an input have one width, got {'+'.join(map(str, group))}"
            )
    return groups


class Block(nn.Module):
    """The linear layers of a block, in groups that share an input."""

    def __init__(self, make: Make, groups: Sequence[Sequence[Shape]]) -> None:
        super().__init__()
        self.groups = nn.ModuleList(
            nn.ModuleList(make(shape.in_features, shape.out_features) for shape in group) for group in groups
        )

    def forward(self, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        return [layer(x) for group, x in zip(self.groups, inputs, strict=True) for layer in group]


def with_code_copied(method: Any) -> Any:
    """Return the method with a code object of its own.

    torch.compile keeps what it has compiled with the code: contenders that share it would have each other's guards
    checked in every call, and the ninth would not be compiled any more.
    """
    function = method.__func__
    copied = FunctionType(function.__code__.replace(), function.__globals__, function.__name__)
    return MethodType(copied, method.__self__)


class BlockWork:
    """Weights, inputs (1, rows, K) of groups of layers and gradients of their outputs, the same for all contenders."""

    def __init__(self, groups: Sequence[Sequence[Shape]], rows: int, dtype: torch.dtype, device: str) -> None:
        torch.manual_seed(0)
        self.groups, self.device, self.dtype = groups, device, dtype
        self.shapes = [shape for group in groups for shape in group]
        self.weights = [0.02 * torch.randn(n.out_features, n.in_features, device=device) for n in self.shapes]
        widths = [group[0].in_features for group in groups]
        self.xs = [torch.randn(1, rows, width, device=device, dtype=dtype) for width in widths]
        self.dys = [torch.randn(1, rows, shape.out_features, device=device, dtype=dtype) for shape in self.shapes]

    def step(self, make: Make, weight_dtype: torch.dtype, mode: str | None = None) -> Step:
        """Return the step of a block, through torch.compile in some mode: outputs, gradients of inputs and weights."""
        block = Block(make, self.groups).to(self.device, weight_dtype)
        for parameter, weight in zip(block.parameters(), self.weights, strict=True):
            parameter.data.copy_(weight)
        forward: Any = torch.compile(with_code_copied(block.forward), mode=mode) if mode else block
        # leaves of its own: a node of autograd that another contender has left behind breaks the capture of a graph
        xs = [x.detach().requires_grad_() for x in self.xs]
        wanted = [*xs, *block.parameters()]
        mixed = weight_dtype != self.dtype

        def run() -> Sequence[torch.Tensor]:
            with torch.autocast(self.device, self.dtype, enabled=mixed):
                ys = forward(xs)
            return [*ys, *torch.autograd.grad(ys, wanted, self.dys)]

        return run

    def check(self, results: Sequence[torch.Tensor], ternary: bool, weight_dtype: torch.dtype) -> float:
        """Return the largest error of a result relative to its norm, by float32 products of rounded factors.

        Raises:
            AssertionError: it is larger than sums in this dtype can make it.
        """
        worst = 0.0
        for result, wanted in zip(results, self.right(ternary, weight_dtype), strict=True):
            worst = max(worst, float((result.detach().reshape(wanted.shape).float() - wanted).norm() / wanted.norm()))
        assert worst < ERROR[self.dtype], f"a result is off by {worst:.4f} of its norm"
        return worst

    def right(self, ternary: bool, weight_dtype: torch.dtype) -> list[torch.Tensor]:
        """Compute the right results of a step, in float32."""
        weights, dys = iter(self.weights), iter(self.dys)
        ys, dxs, dws = [], [], []
        for group, x in zip(self.groups, self.xs, strict=True):
            dx = torch.zeros_like(x[0], dtype=torch.float32)
            for _ in group:
                w, dy = next(weights).to(weight_dtype), next(dys)[0].float()
                factor_x, factor_w = rounded(x[0], w) if ternary else (x[0].float(), w.to(x.dtype).float())
                ys.append(factor_x @ factor_w.T)
                dws.append(dy.T @ factor_x)
                dx += dy @ factor_w
            dxs.append(dx)
        return [*ys, *dxs, *dws]


def rounded(x: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantize x and a weight, and return what their codes stand for in float32."""
    x_q, x_scale = (torch.from_numpy(part).to(x.device) for part in reference.quantize_activation(x.float().cpu()))
    w_q, w_scale = quantize_weight(weight)
    return x_q.float() * x_scale[..., None], w_q.float() * w_scale
