"""`bitnet-jit bench`: a quick look at the speed of packed linear layers here; `benchmarks/` measures with care."""

import re
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

SHAPES = ["2560x2560", "6912x2560", "2560x6912"]  # outputs x inputs
ROWS = [1, 16, 128, 512]
SECONDS = 0.3  # to measure each line
MIN_CALLS = 5
MLX = "mlx"  # MLX's arrays in place of a device of torch


@dataclass(frozen=True)
class Measured:
    """One line of the table; the weight is read once per call, and a multiply-add counts as two operations."""

    out_features: int
    in_features: int
    rows: int
    median_seconds: float
    num_bytes: int

    @property
    def gb_per_second(self) -> float:
        return self.num_bytes / self.median_seconds / 1e9

    @property
    def gop_per_second(self) -> float:
        return 2 * self.rows * self.out_features * self.in_features / self.median_seconds / 1e9


def bench(
    shapes: Annotated[list[str], typer.Option("--shape", help="Outputs x inputs; may be given again.")] = SHAPES,  # noqa: B006
    rows: Annotated[list[int], typer.Option(min=1, help="Rows of the input; may be given again.")] = ROWS,  # noqa: B006
    packing: Annotated[str, typer.Option(help="i2 (2 bits per weight) or t5 (1.6).")] = "i2",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads. [default: as many as torch uses]")] = None,
    device: Annotated[str, typer.Option(help="Such as cpu, cuda:0 or mps; mlx for MLX's arrays.")] = "cpu",
) -> None:
    """Measure packed linear layers (int8 activations, ternary weights, float32 in and out) on this machine."""
    sizes = [parse_shape(shape) for shape in shapes]
    from rich.console import Console
    from rich.progress import track

    from bitnet_jit.devices.memory import check_fits
    from bitnet_jit.devices.threads import get_num_threads, set_num_threads
    from bitnet_jit.nn.checks import check_features
    from bitnet_jit.packing import get_format

    get_format(packing)
    place = check_place(device, packing)
    if threads is not None:
        set_num_threads(threads)
    for out_features, in_features in sizes:
        check_features(in_features, out_features)
        # codes, the random numbers behind them, and inputs and outputs for the most rows
        num_bytes = 9 * out_features * in_features + 4 * max(rows) * (in_features + out_features)
        check_fits(f"--shape, --rows: {out_features}x{in_features} with {max(rows)} rows", num_bytes)
    jobs = [(*size, number) for size in sizes for number in rows]
    console = Console(stderr=True)
    measured = [measure(*job, packing, place) for job in track(jobs, "measuring", console=console, transient=True)]
    Console().print(as_table(measured, f"bit_linear, {packing}, {device}, {get_num_threads()} CPU threads"))


def check_place(device: str, packing: str) -> str:
    """Return a device of torch, or "mlx" where that is here; what cannot be measured is wrong usage."""
    from bitnet_jit.devices.checks import check_device
    from bitnet_jit.kernels import registry

    if device != MLX:
        return str(check_device(device))
    if reason := registry.absent_reason(MLX):
        raise typer.BadParameter(reason, param_hint="--device")
    if packing != "i2":
        raise typer.BadParameter(f"expected i2 on {MLX}, got {packing!r}", param_hint="--packing")
    return device


def parse_shape(text: str) -> tuple[int, int]:
    """Return outputs and inputs of a shape such as 6912x2560; another text ends the command as wrong usage."""
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(re.fullmatch("[1-9][0-9]{0,8}", part) for part in parts):
        raise typer.BadParameter(f"expected outputs x inputs such as 6912x2560, got {text!r}", param_hint="--shape")
    return int(parts[0]), int(parts[1])


def measure(out_features: int, in_features: int, rows: int, packing: str, device: str) -> Measured:
    """Measure the median time per call of a packed layer with random codes."""
    if device == MLX:
        from bitnet_jit.cli.bench_mlx import layer_on_mlx

        call, num_bytes = layer_on_mlx(out_features, in_features, rows)
        return Measured(out_features, in_features, rows, statistics.median(time_calls(call)), num_bytes)
    import torch

    from bitnet_jit.devices.kinds import kind_of
    from bitnet_jit.nn.packed_bit_linear import PackedBitLinear

    rng = torch.Generator().manual_seed(0)
    codes = torch.randint(-1, 2, (out_features, in_features), dtype=torch.int8, device="cpu", generator=rng)
    layer = PackedBitLinear.from_codes(codes, torch.tensor(0.02, dtype=torch.float32, device="cpu"), format=packing).to(
        device
    )
    x = torch.randn(rows, in_features, dtype=torch.float32, device="cpu", generator=rng).to(device)
    finish = kind_of(x.device).synchronize
    with torch.no_grad():
        seconds = time_calls(lambda: (layer(x), finish()))
    return Measured(out_features, in_features, rows, statistics.median(seconds), layer.w_packed.nbytes)


def time_calls(call: Callable[[], object]) -> list[float]:
    """Return the seconds of each of several calls, after two that compile and warm up."""
    call()
    call()
    seconds: list[float] = []
    end = time.perf_counter() + SECONDS
    while len(seconds) < MIN_CALLS or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return seconds


def as_table(measured: list[Measured], title: str) -> "Table":
    """Return the lines as a table of rich."""
    from rich.table import Table

    table = Table(title=title)
    for heading in ("outputs x inputs", "rows", "median us", "weight GB/s", "GOP/s"):
        table.add_column(heading, justify="right")
    for line in measured:
        table.add_row(
            f"{line.out_features} x {line.in_features}",
            str(line.rows),
            f"{line.median_seconds * 1e6:.1f}",
            f"{line.gb_per_second:.1f}",
            f"{line.gop_per_second:.0f}",
        )
    return table
