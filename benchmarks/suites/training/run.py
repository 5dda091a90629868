"""Training of ternary layers: forward and backward of a block's linear layers, ours against peers, and quantizers.

Every result is checked before it is timed. Contenders take turns, each time in another order; times are those of single
steps. On a GPU a turn goes on until the clock is what this contender's power allows, as in a training, and only what
follows is counted. A way to run is eager, compiled (torch.compile), reduced (its mode "reduce-overhead"), or graph:
compiled, then a CUDA graph of the step.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from rich.console import Console

from benchmarks.harness import gpu
from benchmarks.harness.options import add_files, at_least_one, new_parser, positive
from benchmarks.harness.report import header
from benchmarks.harness.table import FILE_WIDTH
from benchmarks.suites.training.block import BLOCK, BlockWork, parse_block
from benchmarks.suites.training.figures import draw, layer_table
from benchmarks.suites.training.measure import GRAPHS, WAYS, LayerRow, layer_rows


def run(arguments: Sequence[str] | None = None) -> list[LayerRow]:
    """Measure, print, and write the files that the command line asks for."""
    options = parse(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    console, rows = Console(width=FILE_WIDTH), []
    work = BlockWork(options.shapes, options.rows, torch.bfloat16, options.device)
    ways = [way for way in options.ways if way not in GRAPHS or options.device == "cuda"]
    for weight_dtype in (torch.bfloat16, torch.float32):
        rows += layer_rows(work, weight_dtype, ways, options.seconds, console.print)
    console.print(layer_table(rows))
    figures: dict[str, Any] = {**header(), "rows": options.rows, "layers": [asdict(row) for row in rows]}
    if options.device == "cuda":
        from benchmarks.suites.training.quantizers import quantizer_rows, quantizer_table

        quantizers = quantizer_rows(options.rows)
        console.print(quantizer_table(quantizers))
        figures |= gpu.facts("cuda") | {"quantizers": [asdict(row) for row in quantizers]}
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    if options.picture:
        draw(rows, figures.get("gpu", figures["cpu"]), options.picture)
    return rows


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = new_parser(__doc__)
    add = parser.add_argument
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    add(
        "--shapes",
        type=parse_block,
        default=BLOCK,
        metavar="OUTxIN+...,...",
        help="layers, with + between those that share an input (default: %(default)s, a block of BitNet b1.58 2B-4T)",
    )
    add("--rows", type=at_least_one, default=4096, metavar="M", help="tokens per batch (default: %(default)s)")
    add("--ways", nargs="+", choices=WAYS, default=WAYS, help="default: all that the device has")
    add("--seconds", type=positive, default=0.3, help="of a turn on a GPU, timed (default: %(default)s)")
    add("--threads", type=at_least_one, metavar="T", help="CPU threads (default: torch's)")
    add_files(parser)
    return parser.parse_args(arguments)
