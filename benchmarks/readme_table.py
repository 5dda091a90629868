"""Write the README's table of figures from benchmarks/results: nothing in it is typed by hand.

The table stands between two comments in the README; `--print` shows it instead. One table for each CPU measured.
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the checkout, where this runs by its path

from benchmarks.harness.options import new_parser
from benchmarks.harness.report import Report, Row, read

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
OURS = "bitnet_jit"
PEERS = {
    "torch bf16": ("torch_bf16",),
    "torch int8, the better engine": ("torch_int8_x86", "torch_int8_onednn"),
    "ggml TQ2_0": ("ggml_tq2_0",),
    "ggml Q4_0": ("ggml_q4_0",),
}


def table(report: Report) -> str:
    """Return Markdown: a line per case of a report of bench_bit_linear, at the most threads that were measured."""
    header = report.header
    lines = [
        f"{header['cpu']}, {header['cores']} cores, {header['date'][:10]}, torch {header['versions']['torch']}, "
        f"numba {header['versions']['numba']}; medians in microseconds; in brackets: how much faster bitnet_jit is.",
        "",
        "| weight | rows | threads | weights in | bitnet_jit | of the limit | " + " | ".join(PEERS) + " |",
        "|" + "---|" * (6 + len(PEERS)),
    ]
    for ours in report.rows:
        if ours.provider == OURS and ours.threads == max(row.threads for row in report.rows):
            lines.append(line(ours, [row for row in report.rows if row.case == ours.case]))
    return "\n".join(lines)


def line(ours: Row, rows: Sequence[Row]) -> str:
    """Return a line: ours, its share of the nearer limit, and the best of each group of peers."""
    place = "cache" if ours.cache == "hot" else "memory"
    limit = "" if ours.share_of_limit is None else f"{ours.share_of_limit:.0%} ({ours.limit})"
    cells = [ours.shape, str(ours.rows), str(ours.threads), place, f"{ours.median_us:,.0f}", limit]
    for names in PEERS.values():
        times = [row.median_us for row in rows if row.provider in names]
        cells.append(f"{min(times):,.0f} ({min(times) / ours.median_us:.1f}x)" if times else "")
    return "| " + " | ".join(cells) + " |"


def replace_between(text: str, table: str) -> str:
    """Return the README with the table between its two comments.

    Raises:
        ValueError: the comments are not there.
    """
    if BEGIN not in text or END not in text:
        raise ValueError(f"expected the comments {BEGIN} and {END}, found no such place")
    return re.sub(f"{re.escape(BEGIN)}.*{re.escape(END)}", lambda _: f"{BEGIN}\n{table}\n{END}", text, flags=re.S)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write or print the table of every CPU with results."""
    parser = new_parser(__doc__)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results", metavar="FOLDER")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md", metavar="FILE")
    parser.add_argument("--print", action="store_true", help="show the table and leave the README alone")
    given = parser.parse_args(arguments)
    files = sorted(given.results.glob("*/bit_linear.json"))
    if not files:
        parser.error(f"no */bit_linear.json in {given.results}: run `make bench` first")
    text = "\n\n".join(table(read(file)) for file in files)
    if given.print:
        print(text)
    else:
        given.readme.write_text(replace_between(given.readme.read_text(), text))


if __name__ == "__main__":
    main()
