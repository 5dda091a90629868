"""Reports of benchmarks: rows with their limits, refusals and a header, as JSON; those of whole models add to them."""

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Generic, TypeVar

from benchmarks.harness.contender import Contender
from benchmarks.harness.timing import Times
from bitnet_jit.devices.cpu import cpu_name
from bitnet_jit.system.cores import available_cores

PACKAGES = ("bitnet-jit", "torch", "mlx", "numba", "triton", "numpy", "llama-cpp-python", "transformers", "gemlite")
LIMIT = "limit:"

R = TypeVar("R")  # the rows of a report


@dataclass(frozen=True)
class Case:
    """One case of a benchmark, at which contenders are compared.

    Attributes:
        op: the name of the op, or of a model's phase.
        shape: of the weight, "OUTxIN".
        rows: M.
        threads: of the CPU.
        cache: "hot" or "cold".
    """

    op: str
    shape: str
    rows: int
    threads: int
    cache: str

    def __str__(self) -> str:
        return f"{self.op} {self.shape}, {self.rows} rows, {self.threads} threads, {self.cache}"


@dataclass(frozen=True)
class Row:
    """One contender at one case.

    Attributes:
        op, shape, rows, threads, cache: as in `Case`.
        gb_per_s: the packed weight (or all tensors of row-wise work) over the median, 10^9 bytes.
        gop_per_s: multiplications and additions over the median, 10^9.
        rows_per_s: rows over the median.
        limit: the nearer limit, "peak" or "read"; None where none was measured.
        share_of_limit: the time that this limit allows over the median.
    """

    op: str
    shape: str
    rows: int
    provider: str
    threads: int
    cache: str
    median_us: float
    min_us: float
    gb_per_s: float
    gop_per_s: float
    rows_per_s: int
    limit: str | None
    share_of_limit: float | None

    @property
    def case(self) -> Case:
        return Case(self.op, self.shape, self.rows, self.threads, self.cache)


@dataclass(frozen=True)
class Refusal:
    """A contender that did not take part, and why.

    Attributes:
        case: in words, such as "2560x2560, 8 rows".
        provider: its name.
        reason: in words.
    """

    case: str
    provider: str
    reason: str


@dataclass(frozen=True)
class Report(Generic[R]):
    """All figures of one run."""

    header: dict[str, Any]
    rows: tuple[R, ...]
    refusals: tuple[Refusal, ...]


def header(**facts: Any) -> dict[str, Any]:
    """Return the facts of every run: CPU, system, versions and date, and those that are given."""
    versions = {package: version_of(package) for package in PACKAGES}
    return {
        "cpu": cpu_name(),
        "cores": available_cores(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {package: version for package, version in versions.items() if version},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        **facts,
    }


def version_of(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def best_rates(contenders: Sequence[Contender], times: dict[str, Times]) -> dict[str, float]:
    """Return the limits among the contenders: operations ("peak") and bytes ("read") per microsecond, by medians."""
    best: dict[str, float] = {}
    for contender in contenders:
        if contender.name.startswith(LIMIT):
            kind, amount = ("peak", contender.num_ops) if contender.num_ops else ("read", contender.num_bytes)
            best[kind] = max(best.get(kind, 0.0), amount / times[contender.name].median)
    return best


def make_row(case: Case, contender: Contender, times: Times, rates: dict[str, float]) -> Row:
    """Return the figures of one contender; `rates` are those of `best_rates`."""
    amounts = {"peak": contender.num_ops, "read": contender.num_bytes}
    needed = {kind: amounts[kind] / rate for kind, rate in rates.items()}
    limit = max(needed, key=needed.__getitem__, default=None)
    return Row(
        **asdict(case),
        provider=contender.name,
        median_us=round(times.median, 2),
        min_us=round(times.min, 2),
        gb_per_s=round(contender.num_bytes / times.median / 1e3, 2),
        gop_per_s=round(contender.num_ops / times.median / 1e3, 2),
        rows_per_s=round(case.rows / times.median * 1e6),
        limit=limit,
        share_of_limit=round(needed[limit] / times.median, 3) if limit else None,
    )


def write(report: Report[Any], file: Path) -> None:
    """Write a report of any kind as JSON."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(asdict(report), indent=1) + "\n")


def read_fields(file: Path) -> dict[str, Any]:
    """Return the fields of a report that `write` wrote, its refusals as such."""
    fields: dict[str, Any] = json.loads(file.read_text())
    return fields | {"refusals": tuple(Refusal(**refusal) for refusal in fields["refusals"])}


def read(file: Path) -> Report[Row]:
    """Read a report of kernels that `write` wrote."""
    fields = read_fields(file)
    return Report(fields["header"], tuple(Row(**row) for row in fields["rows"]), fields["refusals"])
