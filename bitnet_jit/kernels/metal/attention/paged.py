"""`paged_attention` as launches: one writes keys and values into their pages, one attends, one may join pieces.

A simdgroup has some heads of a token. Where few of them would run, each takes few of the pieces of its positions, and
attend_join.metal joins them; else it joins them itself. Both give a token the same bits, by any config.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from bitnet_jit.kernels.choices import takes_all
from bitnet_jit.kernels.kernel import Kernel
from bitnet_jit.kernels.metal.launch import SIMD, Bound, Launch, Scratch, Varying
from bitnet_jit.kernels.metal.source import Source
from bitnet_jit.problem import Problem

FULL = 512  # simdgroups that keep a GPU busy
MAX_TURNS = 4096  # simdgroups among which pieces are shared out
MAX_SUMS = 2**26  # numbers that the pieces of a call may leave in scratch memory
MAX_PAIRS = 8  # of dimensions whose sums a lane holds, of all its heads
MAX_SHARED = 16 * 1024  # bytes of a threadgroup's queries: of two at a time there is room
SIMDGROUPS = 4  # of a threadgroup that writes or joins
TOKENS = ("positions", "starts")
PAGES = ("keys", "values", "key_scale", "value_scale")
RESULTS = ("maxima", "totals", "sums")  # of pieces
WRITE = Source(
    "attend_write",
    ("qkv", "rotary", *TOKENS, "tables"),
    PAGES,
    ("quantize.h", "tokens.h"),
    ("SIMDGROUPS", "HEADS", "KV", "HEAD_DIM", "CODES", "C"),
)
ATTEND = Source(
    "attend",
    ("qkv", "rotary", *TOKENS, "tables", *PAGES),
    ("y", *RESULTS),
    ("quantize.h", "tokens.h", "run.h", "attend.h"),
    ("SIMDGROUPS", "ROWS", "HEADS", "KV", "HEAD_DIM", "CODES", "SPLIT", "X"),
)
JOIN = Source(
    "attend_join",
    (*RESULTS, *TOKENS),
    ("y",),
    ("quantize.h", "tokens.h", "run.h", "attend.h"),
    ("SIMDGROUPS", "HEADS", "HEAD_DIM", "X"),
)


@dataclass(frozen=True)
class AttentionConfig:
    """How a launch that attends is cut.

    Attributes:
        rows: heads of a simdgroup, which read the same keys and values.
        simdgroups: of a threadgroup.
    """

    rows: int
    simdgroups: int


@dataclass(frozen=True)
class Sizes:
    """The numbers of tokens of a call, of its sequences, and of the pages that a sequence may have."""

    tokens: int
    sequences: int
    pages: int


def bind(problem: Problem, config: AttentionConfig, writes: bool = True) -> Varying:
    """Bind the op: launches by the shapes of a call's arguments; `writes`: keys and values into their pages, too."""

    def of(shapes: Mapping[str, tuple[int, ...]]) -> Bound:
        sizes = Sizes(prod(shapes["positions"]), *shapes["tables"])
        is_split = units(problem, sizes, config) < FULL and num_sums(problem, sizes) <= MAX_SUMS and sizes.pages > 1
        attending = attend(problem, sizes, config, is_split)
        writing = (write(problem, sizes),) if writes else ()
        launches = (*writing, attending, *((join(problem, sizes),) if is_split else ()))
        return Bound(lambda rows: launches, lambda rows: results(problem, sizes) if is_split else {})

    return Varying(of)


def units(problem: Problem, sizes: Sizes, config: AttentionConfig) -> int:
    """Return the simdgroups of a call whose pieces are not apart."""
    return sizes.tokens * problem.kv_heads * -(-problem.heads // problem.kv_heads // config.rows)


def num_sums(problem: Problem, sizes: Sizes) -> int:
    """Return the numbers that a call leaves in scratch memory where pieces are apart."""
    return sizes.tokens * problem.out_features * sizes.pages


def results(problem: Problem, sizes: Sizes) -> Scratch:
    """Return what lies between the launches that attend and join."""
    pieces = (sizes.tokens, problem.heads, sizes.pages)
    return {
        "maxima": (pieces, "float32"),
        "totals": (pieces, "float32"),
        "sums": ((*pieces, problem.head_dim), "float32"),
    }


def pages_of(problem: Problem) -> tuple[str | None, ...]:
    """Return the tensors of a cache, which has scales where it is of int8."""
    return PAGES if problem.cache_dtype == "int8" else (*PAGES[:2], None, None)


def write(problem: Problem, sizes: Sizes) -> Launch:
    """Return the launch that writes keys and values."""
    pages = pages_of(problem)
    return Launch(
        WRITE,
        WRITE.inputs,
        pages,
        {
            "SIMDGROUPS": SIMDGROUPS,
            **heads_of(problem),
            "CODES": problem.cache_dtype == "int8",
            "C": problem.cache_dtype,
        },
        (sizes.tokens, sizes.sequences, sizes.pages),
        (-(-sizes.tokens * problem.kv_heads // SIMDGROUPS), 1, 1),
        SIMD * SIMDGROUPS,
        written=tuple(name for name in pages if name is not None),
    )


def attend(problem: Problem, sizes: Sizes, config: AttentionConfig, is_split: bool) -> Launch:
    """Return the launch that attends: to y, or to results of pieces."""
    count = units(problem, sizes, config)
    turns = max(1, min(sizes.pages, MAX_TURNS // max(1, count))) if is_split else 1
    return Launch(
        ATTEND,
        (*ATTEND.inputs[:5], *pages_of(problem)),
        (None, *RESULTS) if is_split else ("y", None, None, None),
        {
            "SIMDGROUPS": config.simdgroups,
            "ROWS": config.rows,
            **heads_of(problem),
            "CODES": problem.cache_dtype == "int8",
            "SPLIT": is_split,
            "X": problem.x_dtype,
        },
        (sizes.tokens, sizes.sequences, sizes.pages, turns),
        (-(-count // config.simdgroups), turns, 1),
        SIMD * config.simdgroups,
    )


def join(problem: Problem, sizes: Sizes) -> Launch:
    """Return the launch that joins results of pieces."""
    return Launch(
        JOIN,
        JOIN.inputs,
        ("y",),
        {
            "SIMDGROUPS": SIMDGROUPS,
            "HEADS": problem.heads,
            "HEAD_DIM": problem.head_dim,
            "X": problem.x_dtype,
        },
        (sizes.tokens, sizes.sequences, sizes.pages),
        (-(-sizes.tokens * problem.heads // SIMDGROUPS), 1, 1),
        SIMD * SIMDGROUPS,
    )


def heads_of(problem: Problem) -> dict[str, int]:
    """Return the constants that tell how heads lie in a token."""
    return {"HEADS": problem.heads, "KV": problem.kv_heads, "HEAD_DIM": problem.head_dim}


def fits(problem: Problem, config: AttentionConfig) -> bool:
    """Return whether registers hold the sums of a config and threadgroup memory its queries."""
    pairs = -(-problem.head_dim // (2 * SIMD))
    num_bytes = 4 * config.rows * config.simdgroups * problem.head_dim
    return config.rows * pairs <= MAX_PAIRS and num_bytes <= MAX_SHARED


def space(problem: Problem) -> tuple[AttentionConfig, ...]:
    """Return configs of as many heads as share keys, or fewer, the most heads first."""
    group = problem.heads // problem.kv_heads
    rows = dict.fromkeys(min(count, group) for count in (4, 2, 1, 8))
    every = (AttentionConfig(count, simdgroups) for count in rows for simdgroups in (4, 2, 1, 8))
    return tuple(config for config in every if fits(problem, config))


def configs(problem: Problem) -> tuple[AttentionConfig, ...]:
    """Return the likely configs."""
    return space(problem)[:2]


def kernels(backend: str) -> tuple[Kernel, ...]:
    """Return the kernel of the op; its launches write into tensors of the call."""
    return (Kernel(f"{backend}.paged_attention", "paged_attention", bind, configs, takes_all, space),)
