"""Linear layers on MLX's arrays: every kernel of ours that fits, mx.quantized_matmul and mx.matmul beside them.

bfloat16 in and out. Ours and `layer` quantize x to int8 and give the bits of the contract, or are refused;
`mx.quantized_matmul` multiplies floats with two-bit weights, and `mx.matmul` bfloat16 weights. Weights are cold: copies
take turns. A time is that of a list of calls, evaluated at once, over their number: so it holds what MLX's graph costs.
Contenders take turns; the least and the median of all turns count. Runs on a Mac, on NVIDIA's GPUs, and on CPUs.
"""

import argparse
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.harness.options import at_least_one, new_parser
from benchmarks.harness.report import Report, header, write
from benchmarks.harness.shapes import Shape, parse_shapes
from bitnet_jit import reference
from bitnet_jit.devices.mlx import MLX
from bitnet_jit.kernels import registry
from bitnet_jit.kernels.kernel import Config, Kernel
from bitnet_jit.ops.op import OPS
from bitnet_jit.problem import Problem, rows_bucket

TURNS = 7
COLD_BYTES = 128 << 20
MAX_COPIES = 32
CHECKED_ROWS = 4
SCALE = 0.02


@dataclass(frozen=True)
class Line:
    """One contender at one shape.

    Attributes:
        contender: its name, and its config if it has one.
        min_us, median_us: of a call, over all turns.
        gb_per_s: the weight's bytes over the least time.
        top_per_s: multiplications and additions over the least time, 10^12.
    """

    shape: str
    rows: int
    contender: str
    min_us: float
    median_us: float
    gb_per_s: float
    top_per_s: float


@dataclass(frozen=True)
class Work:
    """Random inputs of a layer: x (M, K) in bfloat16, copies of the weight, their scale, and what is right."""

    problem: Problem
    rows: int
    x: object
    weights: list[object]
    scale: object
    expected: np.ndarray


def make_work(shape: Shape, rows: int) -> Work:
    """Draw a layer's inputs."""
    import mlx.core as mx

    n, k = shape.out_features, shape.in_features
    rng = np.random.default_rng(0)
    w_q = rng.integers(-1, 2, (n, k)).astype(np.int8)
    x = mx.array(rng.standard_normal((rows, k)).astype(np.float32)).astype(mx.bfloat16)
    layout = registry.preferred_layout("i2", "mlx")
    packed = layout.from_canonical(layout.format.pack(w_q), n, k)
    copies = max(2, min(MAX_COPIES, COLD_BYTES // packed.nbytes))
    weights = [mx.array(packed) for _ in range(copies)]
    mx.eval(x, weights)
    first = np.array(x[:CHECKED_ROWS].astype(mx.float32))
    y = mx.array(reference.bit_linear(first, w_q, np.float32(SCALE))).astype(mx.bfloat16).astype(mx.float32)
    names = {"layout": layout.name, "activation": "a8", "x_dtype": "bfloat16", "y_dtype": "bfloat16", "scale": "tensor"}
    problem = Problem(
        "bit_linear", MLX.type, rows_bucket(rows), n, k, **names, device=MLX.name(None), gpu=MLX.gpu(None)
    )
    return Work(problem, rows, x, weights, mx.array(SCALE), np.array(y))


def bound(work: Work, kernel: Kernel, config: Config) -> Callable[[object], object]:
    """Return what runs one of our kernels on a weight."""
    operands = OPS["bit_linear"].spec.operands_of(work.problem, (work.rows,))
    call = registry.BACKENDS["mlx"].bind_call(kernel.bind(work.problem, config), operands, None)
    return lambda weight: call(work.x, weight, work.scale, None)


def is_right(work: Work, run: Callable[[object], object]) -> bool:
    """Return whether a kernel of ours gives the contract's bits."""
    import mlx.core as mx

    y = run(work.weights[0])[:CHECKED_ROWS].astype(mx.float32)
    return np.array_equal(np.array(y), work.expected)


def ours(work: Work, wide: bool) -> dict[str, Callable[[object], object]]:
    """Return our kernels by name: each with its first config, or with all; those that are wrong are left out."""
    runs: dict[str, Callable[[object], object]] = {}
    for kernel in (kernel for kernel in registry.candidates(work.problem)[0] if kernel.backend == "mlx"):
        for config in kernel.all_configs(work.problem) if wide else kernel.configs(work.problem)[:1]:
            name = kernel.name if config is None else f"{kernel.name} {config}"
            run = bound(work, kernel, config)
            if is_right(work, run):
                runs[name] = run
            else:
                print(f"{name}: wrong result, left out", file=sys.stderr)
    return runs


def others(work: Work) -> dict[str, Callable[[object], object]]:
    """Return MLX's own products, which take the same bytes or dense ones."""
    import mlx.core as mx

    n, k = work.problem.out_features, work.problem.in_features
    dense = mx.random.normal((n, k)).astype(mx.bfloat16)
    runs: dict[str, Callable[[object], object]] = {"mx.matmul bfloat16 (hot)": lambda weight: work.x @ dense.T}
    if k % 128 == 0:
        scales = mx.full((n, k // 128), SCALE, dtype=mx.bfloat16)
        options = {"group_size": 128, "bits": 2}
        runs["mx.quantized_matmul (a16)"] = lambda weight: mx.quantized_matmul(
            work.x, mx.view(weight, mx.uint32), scales, -scales, **options
        )
    return runs


def times_of(work: Work, runs: dict[str, Callable[[object], object]], turns: int) -> dict[str, list[float]]:
    """Return microseconds per call of each contender, in turns."""
    import mlx.core as mx

    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(turns + 1):  # the first one compiles
        for name, run in runs.items():
            mx.synchronize()
            start = time.perf_counter()
            mx.eval([run(weight) for weight in work.weights])
            mx.synchronize()
            if turn:
                times[name].append((time.perf_counter() - start) / len(work.weights) * 1e6)
    return times


def measure(shape: Shape, rows: int, wide: bool, turns: int) -> list[Line]:
    """Measure all contenders at one shape."""
    work = make_work(shape, rows)
    times = times_of(work, ours(work, wide) | others(work), turns)
    num_bytes, num_ops = shape.out_features * shape.in_features / 4, 2 * rows * shape.out_features * shape.in_features
    return [
        Line(str(shape), rows, name, min(t), statistics.median(t), num_bytes / min(t) / 1e3, num_ops / min(t) / 1e6)
        for name, t in sorted(times.items(), key=lambda item: min(item[1]))
    ]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of a command line."""
    parser = new_parser(__doc__)
    add = parser.add_argument
    add("--shapes", nargs="*", type=parse_shapes, default=[parse_shapes("gpu")], help="default: gpu, the ten of layers")
    add("--rows", nargs="*", type=at_least_one, default=[1, 16, 128, 512])
    add("--turns", type=at_least_one, default=TURNS)
    add("--all-configs", action="store_true", help="every config of every kernel, not the first one alone")
    add("--best", type=at_least_one, default=8, help="contenders that are shown per shape (default: 8)")
    add("--json", type=Path)
    return parser.parse_args(arguments)


def run(arguments: Sequence[str] | None = None) -> Report:
    """Measure, print, and write the files that the command line asks for."""
    given = parse(arguments)
    print(f"{'shape':12} {'rows':>5} {'min us':>9} {'median':>9} {'GB/s':>7} {'TOP/s':>7}  contender")
    lines: list[Line] = []
    for shape in (shape for group in given.shapes for shape in group):
        for rows in given.rows:
            for line in measure(shape, rows, given.all_configs, given.turns)[: given.best]:
                figures = f"{line.min_us:9.1f} {line.median_us:9.1f} {line.gb_per_s:7.0f} {line.top_per_s:7.2f}"
                print(f"{line.shape:12} {line.rows:5} {figures}  {line.contender}", flush=True)
                lines.append(line)
    report = Report(header(command=shlex.join(sys.argv), device="mlx"), tuple(lines), ())
    if given.json:
        write(report, given.json)
    return report
