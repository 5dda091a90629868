"""One call of paged attention: what its kernel is compiled for, its operands as addresses, and its scratch memory."""

from dataclasses import dataclass, replace
from typing import NamedTuple

from numba import types

from bitnet_jit.kernels.numba.attention.panel import Panel
from bitnet_jit.kernels.numba.bound import round_up
from bitnet_jit.kernels.numba.compiler.jit import jit
from bitnet_jit.kernels.numba.intrinsics.elements import ELEMENT_BYTES
from bitnet_jit.kernels.numba.intrinsics.isa import ISAS
from bitnet_jit.kernels.numba.intrinsics.pointers import pointer
from bitnet_jit.problem import PAGE

MAX_ROWS = 128  # queries of a block: tokens by the heads that share keys and values
TALL_ROWS, FEW_ROWS = 6, 4  # of register tiles
TOTALS = 16  # floats behind the sums of a page's results


@dataclass(frozen=True)
class AttentionSpec:
    """The properties that the kernel is compiled for.

    Attributes:
        isa: name of the instruction set.
        x_dtype: of queries, keys and values, and of y.
        cache_dtype: of the pages.
        heads: of queries.
        kv_heads: of keys and values.
        head_dim: numbers of a head, even.
    """

    isa: str
    x_dtype: str
    cache_dtype: str
    heads: int
    kv_heads: int
    head_dim: int

    def panel(self, dtype: str, rows: int, asks: bool = False) -> Panel:
        """Return a register tile on pages of a dtype."""
        return Panel(self.isa, dtype, rows, 4 if ISAS[self.isa].registers >= 4 * TALL_ROWS else 2, asks)

    @property
    def tall(self) -> Panel:
        return self.panel("float32", TALL_ROWS if ISAS[self.isa].registers >= 4 * TALL_ROWS else FEW_ROWS)

    @property
    def one(self) -> Panel:
        return self.panel("float32", 1)

    @property
    def few_in_memory(self) -> Panel:
        return self.panel(self.cache_dtype, FEW_ROWS, asks=True)

    @property
    def one_in_memory(self) -> Panel:
        return self.panel(self.cache_dtype, 1, asks=True)

    @property
    def code_tiles(self) -> "CodeTiles":
        return CodeTiles(self.panel("int8", FEW_ROWS, asks=True))

    @property
    def is_int8(self) -> bool:
        return self.cache_dtype == "int8"

    @property
    def rotated_dtype(self) -> str:
        return "float32"

    @property
    def lanes(self) -> int:
        return ISAS[self.isa].lanes

    @property
    def code_dim(self) -> int:
        """Return the bytes of a head's codes: whole words."""
        return round_up(self.head_dim, 4)

    @property
    def whole_words(self) -> int:
        """Return the columns of values that whole pieces of `interleave` cover."""
        return self.head_dim // (4 * self.lanes) * 4 * self.lanes

    @property
    def reads_bytes(self) -> bool:
        """Return whether codes are taken as they lie in a page: four registers by four rows make whole words."""
        return self.code_tiles.codes.vectors == 4 and self.whole_words == self.head_dim

    @property
    def group(self) -> int:
        return self.heads // self.kv_heads

    @property
    def half(self) -> int:
        return self.head_dim // 2

    @property
    def stride(self) -> int:
        """Return the floats between rows of sums: whole registers."""
        return round_up(self.head_dim, ISAS[self.isa].lanes)

    @property
    def whole(self) -> int:
        """Return the columns of `stride` that whole tiles cover."""
        return self.stride // self.tall.width * self.tall.width

    @property
    def is_ragged(self) -> bool:
        return self.stride != self.head_dim

    @property
    def block(self) -> int:
        """Return the most tokens of a block."""
        return max(1, MAX_ROWS // self.group)

    @property
    def rows(self) -> int:
        """Return the most rows of a block."""
        return self.block * self.group

    @property
    def x_bytes(self) -> int:
        return ELEMENT_BYTES[self.x_dtype]

    @property
    def cache_bytes(self) -> int:
        return ELEMENT_BYTES[self.cache_dtype]

    @property
    def head_bytes(self) -> int:
        """Return the bytes of a page of one head's keys, or values."""
        return PAGE * self.head_dim * self.cache_bytes

    @property
    def width(self) -> int:
        """Return the numbers of a token in qkv."""
        return (self.heads + 2 * self.kv_heads) * self.head_dim

    @property
    def result_bytes(self) -> int:
        """Return the bytes of what a page gives a row: sums, then a maximum and a total."""
        return 4 * (self.stride + TOTALS)

    @property
    def factor_bytes(self) -> int:
        """Return the bytes of one number per row of a block."""
        return round_up(4 * self.rows, 64)

    @property
    def scratch_bytes(self) -> int:
        """Return the bytes of a thread's `Scratch`."""
        floats = self.rows * (self.head_dim + PAGE + self.stride) + PAGE * (self.head_dim + self.stride)
        digits = 2 * PAGE * self.rows if self.is_int8 else 0
        return round_up(4 * floats, 64) + 9 * self.factor_bytes + digits


@dataclass(frozen=True)
class CodeTiles:
    """The register tiles of an int8 cache.

    Attributes:
        codes: of keys.
    """

    codes: Panel

    @property
    def one_code(self) -> Panel:
        return replace(self.codes, rows=1)

    @property
    def values(self) -> Panel:
        """Return the tile of values, half as wide, where each column has two sums."""
        return replace(self.codes, vectors=self.codes.vectors // 2)

    @property
    def one_value(self) -> Panel:
        return replace(self.values, rows=1)


class AttentionJob(NamedTuple):
    """The operands of one call, all int64."""

    qkv: int  # (tokens, spec.width) spec.x_dtype
    keys: int  # (pages, kv_heads, head_dim, PAGE) spec.cache_dtype
    values: int  # (pages, kv_heads, PAGE, head_dim) spec.cache_dtype
    rotary: int  # (context, head_dim) float32
    positions: int  # (tokens,) int32
    tables: int  # (sequences, table_width) int32
    key_scale: int  # (pages, kv_heads, PAGE) float32, 0 beside floats
    value_scale: int  # likewise
    y: int  # (tokens, heads * head_dim) spec.x_dtype
    table_width: int
    threads: int
    counters: int  # workspace, as all that follows
    pieces: int  # the table of `Piece`, which plan.py makes
    num_pieces: int
    scratch: int  # of each thread


class Scratch(NamedTuple):
    """The scratch memory of a thread: addresses of float32."""

    q: int  # (rows, head_dim): rotated and scaled; codes of int8, in rows as far apart
    p: int  # (rows, PAGE): scores, then weights
    acc: int  # (rows, stride)
    k: int  # (head_dim, PAGE): a page of keys, or words of int8 (code_dim / 4, PAGE, 4)
    v: int  # (PAGE, stride): a page of values, zero beyond head_dim; or words of int8 (PAGE / 4, stride, 4)
    largest: int  # (rows,), as the next ones
    sums: int
    maxima: int
    totals: int
    old: int
    new: int
    scales: int  # the next four beside int8 alone: what a row's scores are multiplied by
    excess: int  # of a row's sums, int32
    units: int  # of a row's weights
    digits: int  # (rows, 2, PAGE) int8, of weights


@jit
def scratch_of(spec, address):
    """Return the scratch memory at an address."""
    q = address
    p = q + 4 * spec.rows * spec.head_dim
    acc = p + 4 * spec.rows * PAGE
    k = acc + 4 * spec.rows * spec.stride
    v = k + 4 * PAGE * spec.head_dim
    largest = (v + 4 * PAGE * spec.stride + 63) // 64 * 64
    size = spec.factor_bytes
    return Scratch(
        q,
        p,
        acc,
        k,
        v,
        largest,
        largest + size,
        largest + 2 * size,
        largest + 3 * size,
        largest + 4 * size,
        largest + 5 * size,
        largest + 6 * size,
        largest + 7 * size,
        largest + 8 * size,
        largest + 9 * size,
    )


@jit
def page_of(job, sequence, number):
    """Return the page that holds the positions from number * PAGE on of a sequence."""
    return types.int64(pointer(job.tables, types.int32)[sequence * job.table_width + number])


@jit
def keys_at(spec, job, page, kv_head):
    """Return the address of a page of one head's keys."""
    return job.keys + (page * spec.kv_heads + kv_head) * spec.head_bytes


@jit
def values_at(spec, job, page, kv_head):
    """Return the address of a page of one head's values."""
    return job.values + (page * spec.kv_heads + kv_head) * spec.head_bytes


@jit
def key_scales_at(spec, job, page, kv_head):
    """Return the address of the scales of a page of one head's keys."""
    return job.key_scale + 4 * PAGE * (page * spec.kv_heads + kv_head)


@jit
def value_scales_at(spec, job, page, kv_head):
    """Return the address of the scales of a page of one head's values."""
    return job.value_scale + 4 * PAGE * (page * spec.kv_heads + kv_head)
