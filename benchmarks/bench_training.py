"""Training of ternary layers: forward and backward of a layer stack against peers, and quantizers against copying.

Every result is checked before it is timed. Contenders take turns; times are medians of single steps.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import gpu
from options import at_least_one
from report import header
from shapes import parse_shapes
from training_layers import Step, Work, peers
from work import Contender

# q, k, v, o, gate, up and down of a block of BitNet b1.58 2B-4T
BLOCK = "2560x2560,640x2560,640x2560,2560x2560,6912x2560,6912x2560,2560x6912"
TURNS, STEPS, WARM = 7, 6, 2
WAYS = ("eager", "compiled", "graph")
WAITING = ("onebitllms",)  # for the GPU in every forward, which no graph can hold
QUANTIZED = ((6912, 2560), (2560, 6912), (28672, 8192))  # weights; activations have as many rows as layers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=("cpu", "cuda"))
    parser.add_argument("--shapes", default=BLOCK, help="NxK of the layers, with commas between (default: %(default)s)")
    parser.add_argument("--rows", type=at_least_one, default=4096, help="tokens of a batch (default: %(default)s)")
    parser.add_argument("--ways", default=",".join(WAYS), help="of " + ", ".join(WAYS) + " (default: all)")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args()
    rows, console = [], Console()
    shapes = [
        (shape.out_features, shape.in_features) for text in options.shapes.split(",") for shape in parse_shapes(text)
    ]
    ways = [way for way in options.ways.split(",") if way != "graph" or options.device == "cuda"]
    for weight_dtype in (torch.bfloat16, torch.float32):
        work = Work(shapes, options.rows, torch.bfloat16, options.device)
        rows += layer_rows(work, weight_dtype, ways, console)
        console.print(layer_table(rows))
    found: dict[str, Any] = {**header(), "rows": options.rows, "shapes": options.shapes, "layers": rows}
    if options.device == "cuda":
        found |= gpu.facts("cuda")
        found["quantizers"] = quantizer_rows(options.rows)
        console.print(quantizer_table(found["quantizers"]))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


def layer_rows(work: Work, weight_dtype: torch.dtype, ways: list[str], console: Console) -> list[dict[str, Any]]:
    """Every contender in every way, checked and timed in turns."""
    steps: dict[tuple[str, str], Step] = {}
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for name, make in peers(work.device).items():
        for way in ways:
            if way == "graph" and name in WAITING:
                continue
            row: dict[str, Any] = {"layer": name, "weights": str(weight_dtype).removeprefix("torch."), "way": way}
            rows[name, way] = row
            try:
                step = work.step(make, weight_dtype, compiled=way != "eager")
                row["error"] = work.check(step(), name != "nn.Linear", weight_dtype)
                row["memory"] = memory_of(step, work.device)
                steps[name, way] = captured(step) if way == "graph" else step
            except Exception as error:  # a peer's way to fail is a figure, too
                row["failed"] = (str(error).splitlines() or [type(error).__name__])[0][:100]
                console.print(f"{name}, {way}: {row['failed']}")
    times: dict[tuple[str, str], list[float]] = {key: [] for key in steps}
    for _ in range(TURNS):
        for key, step in steps.items():
            times[key] += clocked(step, work.device)
    for key, taken in times.items():
        rows[key] |= {"median_us": median(taken), "least_us": min(taken)}
    return list(rows.values())


def memory_of(step: Step, device: str) -> int | None:
    """Bytes that a step needs at most beside what is there before."""
    if device == "cpu":
        return None
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step()
    return torch.cuda.max_memory_allocated() - before


def captured(step: Step) -> Step:
    """The step as a CUDA graph."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = step()

    def run() -> Any:
        graph.replay()
        return results

    return run


def clocked(step: Step, device: str) -> list[float]:
    """Microseconds of each of a few steps."""
    for _ in range(WARM):
        step()
    if device == "cpu":
        taken = []
        for _ in range(STEPS):
            start = time.perf_counter()
            step()
            taken.append(1e6 * (time.perf_counter() - start))
        return taken
    events = [torch.cuda.Event(enable_timing=True) for _ in range(STEPS + 1)]
    events[0].record()
    for event in events[1:]:
        step()
        event.record()
    torch.cuda.synchronize()
    return [1e3 * start.elapsed_time(end) for start, end in zip(events, events[1:], strict=False)]


def quantizer_rows(tokens: int) -> list[dict[str, Any]]:
    """Each quantizer on arguments that rotate, beside a copy of as many bytes in the same turns."""
    from bitnet_jit.ops.weights import layout_for

    ops, rows = torch.ops.bitnet_jit, []
    for dtype in (torch.float32, torch.bfloat16):
        for shape in QUANTIZED:
            weight = 0.02 * torch.randn(shape, device="cuda", dtype=dtype)
            layout = layout_for(weight)
            packed, scale = ops.quantize_weight(weight, layout)
            rows.append(quantizer_row("quantize_weight", weight, lambda w, to=layout: ops.quantize_weight(w, to)))
            back = lambda p, s=scale, n=shape, to=layout, d=dtype: ops.dequantize_weight(p, s, n[1], n[0], to, 0, d)  # noqa: E731
            rows.append(quantizer_row("dequantize_weight", packed, back))
        for features in (2560, 6912):
            x = torch.randn(tokens, features, device="cuda", dtype=dtype)
            x_q, x_scale = ops.quantize_activation(x)
            rows.append(quantizer_row("quantize_activation", x, ops.quantize_activation))
            rows.append(
                quantizer_row(
                    "dequantize_activation", x_q, lambda q, s=x_scale, d=dtype: ops.dequantize_activation(q, s, d)
                )
            )
    return rows


def quantizer_row(name: str, source: torch.Tensor, call: Callable[[torch.Tensor], Any]) -> dict[str, Any]:
    """GB/s of what a quantizer reads and writes, and of a copy that reads and writes as much."""
    outputs = call(source)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    moved = source.nbytes + sum(output.nbytes for output in outputs)
    copies = 1 + 4 * gpu.second_cache_bytes("cuda") // source.nbytes
    sources = [source.clone() for _ in range(copies)]
    halves = [torch.randint(0, 100, (moved // 2,), device="cuda", dtype=torch.uint8) for _ in range(2 * copies)]

    def contender(title: str, run: Callable[[int], Any]) -> Contender:
        return Contender(title, run, lambda: None, moved, 0, lambda _: None, copies=copies)  # type: ignore

    times = gpu.measure(
        [
            contender(name, lambda number: call(sources[number % copies])),
            contender("copy", lambda number: halves[2 * (number % copies)].copy_(halves[2 * (number % copies) + 1])),
        ],
        0.02,
    )
    speed = {title: moved / taken.median / 1e3 for title, taken in times.items()}
    output = outputs[0]
    return {
        "what": name,
        "shape": "x".join(
            map(str, source.shape if name.endswith("activation") else max(source, output, key=torch.numel).shape)
        ),
        "dtype": str(source.dtype if name.startswith("quant") else output.dtype).removeprefix("torch."),
        "gb_per_s": speed[name],
        "copy_gb_per_s": speed["copy"],
        "share": speed[name] / speed["copy"],
    }


def layer_table(rows: list[dict[str, Any]]) -> Table:
    """A line a contender and way."""
    table = Table("weights", "way", "layer", title="forward and backward of the stack")
    for title in ("us, median", "least", "of nn.Linear's speed", "MB of a step", "error"):
        table.add_column(title, justify="right")
    plain = {(row["weights"], row["way"]): row.get("median_us") for row in rows if row["layer"] == "nn.Linear"}
    for row in rows:
        start = (row["weights"], row["way"], row["layer"])
        if "median_us" not in row:
            table.add_row(*start, row["failed"])
            continue
        base = plain.get((row["weights"], row["way"]))
        speed = f"{base / row['median_us']:.2f}" if base else ""
        memory = "" if row["memory"] is None else f"{row['memory'] / 1e6:.0f}"
        table.add_row(*start, f"{row['median_us']:.0f}", f"{row['least_us']:.0f}", speed, memory, f"{row['error']:.4f}")
    return table


def quantizer_table(rows: list[dict[str, Any]]) -> Table:
    """A line a quantizer and shape."""
    table = Table("quantizer", "shape", "dtype", title="quantizers")
    for title in ("GB/s", "of copying"):
        table.add_column(title, justify="right")
    for row in rows:
        table.add_row(row["what"], row["shape"], row["dtype"], f"{row['gb_per_s']:.0f}", f"{row['share']:.2f}")
    return table


if __name__ == "__main__":
    main()
