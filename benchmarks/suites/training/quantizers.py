"""Quantizers of training on a GPU beside a copy of as many bytes, in turns, on arguments that come from memory."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from rich.table import Table

from benchmarks.harness import gpu
from benchmarks.harness.contender import Contender
from bitnet_jit.kernels import registry

WEIGHTS = ((2560, 2560), (6912, 2560), (2560, 6912), (28672, 8192))
FEATURES = (2560, 6912)
SECONDS = 0.02  # per contender


@dataclass(frozen=True)
class QuantizerRow:
    """One quantizer at one shape.

    Attributes:
        op: the name of the op.
        shape: rows x columns of the floats.
        dtype: of the floats.
        median_us: microseconds.
        gb_per_s: of all that the op reads and writes: a weight is read twice, since its scale is the mean of all of it.
        of_copying: that over the speed of a copy which reads and writes as many bytes.
        gb_per_s_once: where a weight counts as read once.
    """

    op: str
    shape: str
    dtype: str
    median_us: float
    gb_per_s: float
    of_copying: float
    gb_per_s_once: float


def quantizer_rows(tokens: int) -> list[QuantizerRow]:
    """Measure every quantizer in float32 and bfloat16, activations with that number of rows."""
    ops, rows = torch.ops.bitnet_jit, []
    for dtype in (torch.float32, torch.bfloat16):
        for n, k in WEIGHTS:
            w = 0.02 * torch.randn(n, k, device="cuda", dtype=dtype)
            layout = registry.training_layout("cuda").name
            packed, scale = ops.quantize_weight(w, layout)

            def back(packed, scale=scale, n=n, k=k, layout=layout, dtype=dtype):
                return ops.dequantize_weight(packed, scale, k, n, layout, 0, dtype)

            rows.append(measured("quantize_weight", w, w, lambda w, layout=layout: ops.quantize_weight(w, layout), 2))
            rows.append(measured("dequantize_weight", w, packed, back))
        for features in FEATURES:
            x = torch.randn(tokens, features, device="cuda", dtype=dtype)
            x_q, x_scale = ops.quantize_activation(x)

            def floats(x_q, x_scale=x_scale, dtype=dtype):
                return ops.dequantize_activation(x_q, x_scale, dtype)

            rows.append(measured("quantize_activation", x, x, ops.quantize_activation))
            rows.append(measured("dequantize_activation", x, x_q, floats))
    return rows


def measured(
    op: str, floats: torch.Tensor, source: torch.Tensor, call: Callable[[torch.Tensor], Any], reads: int = 1
) -> QuantizerRow:
    """Measure one op, which reads its source that many times."""
    outputs = call(source)
    written = sum(output.nbytes for output in (outputs if isinstance(outputs, tuple) else (outputs,)))
    moved = reads * source.nbytes + written
    copies = 1 + 4 * gpu.last_level_cache_bytes("cuda") // source.nbytes
    sources = [source.clone() for _ in range(copies)]
    halves = [torch.randint(0, 100, (moved // 2,), device="cuda", dtype=torch.uint8) for _ in range(2 * copies)]

    def contender(name: str, run: Callable[[int], Any]) -> Contender:
        return Contender(name, run, lambda: None, moved, 0, lambda _: None, copies=copies)  # type: ignore

    times = gpu.measure(
        [
            contender(op, lambda number: call(sources[number % copies])),
            contender("copy", lambda number: halves[2 * (number % copies)].copy_(halves[2 * (number % copies) + 1])),
        ],
        SECONDS,
    )
    median, copy = times[op].median, times["copy"].median
    return QuantizerRow(
        op,
        "x".join(map(str, floats.shape)),
        str(floats.dtype).removeprefix("torch."),
        round(median, 2),
        round(moved / median / 1e3, 1),
        round(copy / median, 3),
        round((source.nbytes + written) / median / 1e3, 1),
    )


def quantizer_table(rows: list[QuantizerRow]) -> Table:
    """Return a table with a line per quantizer and shape."""
    table = Table("quantizer", "shape", "dtype", title="quantizers", title_justify="left")
    for title in ("median us", "GB/s", "of copying", "GB/s, w read once"):
        table.add_column(title, justify="right")
    for row in rows:
        table.add_row(
            row.op,
            row.shape,
            row.dtype,
            f"{row.median_us:.1f}",
            f"{row.gb_per_s:.0f}",
            f"{row.of_copying:.2f}",
            f"{row.gb_per_s_once:.0f}",
        )
    return table
