"""Reports of whole models: tokens per second beside their bounds, peaks of memory, starts."""

from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.harness.models.bounds import Demand, Rates
from benchmarks.harness.models.turns import Seconds
from benchmarks.harness.report import Report, read_fields

BOUND = "bound"


@dataclass(frozen=True)
class Case:
    """One case, at which contenders are compared.

    Attributes:
        figure: "prefill" or "decode".
        shape: the model's name, as in --shape.
        head: "checkpoint" or "int8".
        threads: of the CPU.
        context: tokens of each prompt; in decode, those behind the first new one.
        batch: texts at a time.
    """

    figure: str
    shape: str
    head: str
    threads: int
    context: int
    batch: int

    def __str__(self) -> str:
        return (
            f"{self.figure} {self.shape}, head {self.head}, {self.context} tokens, batch {self.batch}, "
            f"{self.threads} threads"
        )


@dataclass(frozen=True)
class Row:
    """One contender at one case.

    Attributes:
        figure, shape, head, threads, context, batch: as in `Case`.
        contender: its name, or "bound": what the limits of the machine allow the first contender.
        tokens_per_s: of all texts together, by the least time of the turns.
        median_tokens_per_s: by the median.
        ms: least milliseconds of a step; of a prefill, the time to the first token.
        share_of_bound: of the bound for this contender's bytes and operations.
        limit: the nearer one, "read" or "peak".
        outside_share: of a decode step's time, outside of memory-bound kernels; None where nobody measured it.
    """

    figure: str
    shape: str
    head: str
    threads: int
    context: int
    batch: int
    contender: str
    tokens_per_s: float
    median_tokens_per_s: float
    ms: float
    share_of_bound: float | None
    limit: str | None
    outside_share: float | None

    @property
    def case(self) -> Case:
        return Case(self.figure, self.shape, self.head, self.threads, self.context, self.batch)


@dataclass(frozen=True)
class Peak:
    """The memory that a contender took to be built and to read a prompt.

    Attributes:
        peak_bytes: at most, beyond what the process held before.
        resident_bytes: of weights, head, embedding and cache, by arithmetic.
    """

    shape: str
    head: str
    contender: str
    context: int
    peak_bytes: int
    resident_bytes: int


@dataclass(frozen=True)
class StartRow:
    """The start of our decoder from files, in seconds; see `start.Start`."""

    shape: str
    head: str
    imports: float
    load: float
    first_token: float
    second_token: float


@dataclass(frozen=True)
class ModelReport(Report[Row]):
    """All figures of one run; beside the rows peaks of memory and starts."""

    peaks: tuple[Peak, ...] = ()
    starts: tuple[StartRow, ...] = ()


def make_row(
    case: Case, contender: str, seconds: Seconds, demand: Demand, rates: Rates, outside_share: float | None = None
) -> Row:
    """Return the figures of one contender at one case."""
    tokens = case.batch * (case.context if case.figure == "prefill" else 1)
    return Row(
        **asdict(case),
        contender=contender,
        tokens_per_s=round(tokens / seconds.least, 2),
        median_tokens_per_s=round(tokens / seconds.median, 2),
        ms=round(1e3 * seconds.least, 5),
        share_of_bound=round(demand.min_seconds(rates) / seconds.least, 3) if rates.read else None,
        limit=demand.nearer_limit(rates) if rates.read else None,
        outside_share=None if outside_share is None else round(outside_share, 3),
    )


def read(file: Path) -> ModelReport:
    """Read a report that `write` wrote."""
    fields = read_fields(file)
    return ModelReport(
        fields["header"],
        tuple(Row(**row) for row in fields["rows"]),
        fields["refusals"],
        tuple(Peak(**peak) for peak in fields["peaks"]),
        tuple(StartRow(**start) for start in fields["starts"]),
    )
