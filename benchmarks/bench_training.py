"""Training of ternary layers: forward and backward of a block's linear layers, ours against peers, and quantizers.

Every result is checked before it is timed. Contenders take turns, each time in another order; times are those of single
steps. On a GPU a turn goes on until the clock is what this contender's power allows, as in a training, and only what
follows is counted. A way to run is eager, compiled (torch.compile), reduced (its mode "reduce-overhead"), or graph:
compiled, then a CUDA graph of the step.
"""

import argparse
import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

import gpu
from bitnet_jit.devices import graphs
from options import at_least_one, positive
from report import FILE_WIDTH, header
from training_layers import BLOCK, Step, Work, parse_block, peers

TURNS = 15  # on a CPU, of a step each
GPU_TURNS = 5
SETTLED_SECONDS = 0.3  # of a turn on a GPU, not counted: its power is watched and its clock set within that
STEPS = 4  # to learn how long one takes, and while the clock is asked for
WAYS = ("eager", "compiled", "reduced", "graph")
GRAPHS = ("reduced", "graph")  # on GPUs
WAITING = ("onebitllms",)  # for the GPU in every forward, which no graph can hold
Run = Callable[[], object]
MODES = {"eager": None, "compiled": "default", "reduced": "reduce-overhead", "graph": "default"}  # of torch.compile


@dataclass(frozen=True)
class LayerRow:
    """One kind of layer in one way.

    Attributes:
        weights: dtype of the parameters; activations are bfloat16.
        error: the largest of a result relative to its norm.
        memory_bytes: that a step takes at most beside what is there before; None on a CPU.
        clock_mhz: of the multiprocessors at the end of a turn, the median; None where nothing tells it.
        failed: why there are no figures, or "".
    """

    layer: str
    weights: str
    way: str
    error: float | None = None
    memory_bytes: int | None = None
    median_us: float | None = None
    min_us: float | None = None
    clock_mhz: int | None = None
    failed: str = ""


def run(arguments: Sequence[str] | None = None) -> list[LayerRow]:
    """Measure, print, and write what the command line asks for."""
    options = parse(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    console, rows = Console(width=FILE_WIDTH), []
    work = Work(options.shapes, options.rows, torch.bfloat16, options.device)
    ways = [way for way in options.ways if way not in GRAPHS or options.device == "cuda"]
    for weight_dtype in (torch.bfloat16, torch.float32):
        rows += layer_rows(work, weight_dtype, ways, options.seconds, console.print)
    console.print(layer_table(rows))
    found: dict[str, Any] = {**header(), "rows": options.rows, "layers": [asdict(row) for row in rows]}
    if options.device == "cuda":
        from training_quantizers import quantizer_rows, quantizer_table

        quantizers = quantizer_rows(options.rows)
        console.print(quantizer_table(quantizers))
        found |= gpu.facts("cuda") | {"quantizers": [asdict(row) for row in quantizers]}
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    if options.picture:
        draw(rows, found.get("gpu", found["cpu"]), options.picture)
    return rows


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    add(
        "--shapes",
        type=parse_block,
        default=BLOCK,
        metavar="OUTxIN+...,...",
        help="layers, with + between those that share an input (default: %(default)s, a block of BitNet b1.58 2B-4T)",
    )
    add("--rows", type=at_least_one, default=4096, metavar="M", help="tokens of a batch (default: %(default)s)")
    add("--ways", nargs="+", choices=WAYS, default=WAYS, help="default: all that the device has")
    add("--seconds", type=positive, default=0.3, help="of a turn on a GPU, timed (default: %(default)s)")
    add("--threads", type=at_least_one, metavar="T", help="CPU threads (default: torch's)")
    add("--json", type=Path, metavar="FILE", help="write every figure there")
    add("--picture", type=Path, metavar="FILE", help="draw the medians there, as .png or .svg")
    return parser.parse_args(arguments)


def layer_rows(
    work: Work, weight_dtype: torch.dtype, ways: Sequence[str], seconds: float, say: Callable[[str], object]
) -> list[LayerRow]:
    """Every contender in every way, checked, then timed in turns."""
    steps: dict[tuple[str, str], Run] = {}
    rows: dict[tuple[str, str], LayerRow] = {}
    weights = str(weight_dtype).removeprefix("torch.")
    for name, make in peers(work.device).items():
        for way in ways:
            if way in GRAPHS and name in WAITING:
                continue
            key = name, way
            try:
                step = work.step(make, weight_dtype, MODES[way])
                error = work.check(step(), name != "nn.Linear", weight_dtype)
                memory = memory_of(step, work.device)
                steps[key] = in_a_graph(step) if way == "graph" else step
                rows[key] = LayerRow(name, weights, way, round(error, 5), memory)
            except Exception as error:  # a peer's way to fail is a figure, too
                failed = (str(error).splitlines() or [type(error).__name__])[0][:100]
                rows[key] = LayerRow(name, weights, way, failed=failed)
            say(f"{weights} weights, {name}, {way}: {rows[key].failed or 'right'}")
    for key, times in in_turns(steps, work.device, seconds).items():
        rows[key] = LayerRow(**asdict(rows[key]) | times)
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


def in_a_graph(step: Run) -> Run:
    """The step, which has run before, as a CUDA graph of it alone: a replay is timed as one step."""
    replay: Run = graphs.capture(lambda _: step(), copies=1, calls=1).graph.replay
    return replay


def in_turns(steps: dict[Any, Run], device: str, seconds: float) -> dict[Any, dict[str, Any]]:
    """What each of them takes, as fields of a LayerRow."""
    turns = [
        key
        for turn in range(TURNS if device == "cpu" else GPU_TURNS)
        for key in random.Random(turn).sample(list(steps), len(steps))
    ]
    times: dict[Any, list[float]] = {key: [] for key in steps}
    clocks: dict[Any, list[int]] = {key: [] for key in steps}
    for key in track(turns, "timing", console=Console(stderr=True)):
        taken, clock = on_cpu(steps[key]) if device == "cpu" else settled(steps[key], seconds)
        times[key] += taken
        clocks[key] += [clock] if clock else []
    return {
        key: {
            "median_us": round(median(taken), 1),
            "min_us": round(min(taken), 1),
            "clock_mhz": round(median(clocks[key])) if clocks[key] else None,
        }
        for key, taken in times.items()
    }


def on_cpu(step: Run) -> tuple[list[float], None]:
    """Microseconds of a step after another one, and no clock."""
    step()
    start = time.perf_counter()
    step()
    return [1e6 * (time.perf_counter() - start)], None


def settled(step: Run, seconds: float) -> tuple[list[float], int | None]:
    """Microseconds of each step of so many seconds, once the GPU's clock has settled, and that clock."""
    each = median(graphs.timed(step, STEPS)) / 1e6
    graphs.timed(step, round(SETTLED_SECONDS / each))
    taken = graphs.timed(step, max(1, round(seconds / each)))
    for _ in range(STEPS):
        step()
    clock = gpu.clock_mhz()
    torch.cuda.synchronize()
    return taken, clock


def layer_table(rows: Sequence[LayerRow]) -> Table:
    """A line a contender and way."""
    table = Table("weights", "way", "layer", title="forward and backward of the block", title_justify="left")
    for title in ("median us", "least us", "x BitLinear", "MHz", "MB of a step", "error"):
        table.add_column(title, justify="right", no_wrap=True)
    ours = {(row.weights, row.way): row.median_us for row in rows if row.layer == "BitLinear"}
    for row in rows:
        if row.median_us is None:
            table.add_row(row.weights, row.way, row.layer, "failed")  # how was said when it did
            continue
        own = ours.get((row.weights, row.way))
        table.add_row(
            row.weights,
            row.way,
            row.layer,
            f"{row.median_us:.0f}",
            f"{row.min_us:.0f}",
            f"{row.median_us / own:.2f}" if own else "",
            "" if row.clock_mhz is None else str(row.clock_mhz),
            "" if row.memory_bytes is None else f"{row.memory_bytes / 1e6:.0f}",
            f"{row.error:.4f}",
        )
    return table


def draw(rows: Sequence[LayerRow], device: str, file: Path) -> None:
    """Bars of the medians: a panel for each dtype of weights, a group for each way."""
    from matplotlib.figure import Figure

    dtypes, ways = (list(dict.fromkeys(getattr(row, name) for row in rows)) for name in ("weights", "way"))
    layers = list(dict.fromkeys(row.layer for row in rows))
    figure = Figure(figsize=(5 * len(dtypes), 3.6), layout="constrained")
    width = 0.8 / len(layers)
    for axes, dtype in zip(figure.subplots(1, len(dtypes), sharey=True, squeeze=False)[0], dtypes, strict=True):
        for number, layer in enumerate(layers):
            own = [row for row in rows if (row.weights, row.layer) == (dtype, layer) and row.median_us is not None]
            at = [ways.index(row.way) + (number - (len(layers) - 1) / 2) * width for row in own]
            axes.bar(at, [row.median_us / 1e3 for row in own], width, label=layer)  # type: ignore[operator]
        axes.set_xticks(range(len(ways)), ways)
        axes.set_title(f"{dtype} weights", fontsize=9)
        axes.legend(fontsize=7)
    figure.axes[0].set_ylabel("forward and backward, ms", fontsize=8)
    figure.suptitle(device, fontsize=10)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)


if __name__ == "__main__":
    run()
