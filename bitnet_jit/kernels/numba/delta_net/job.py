"""One call of `delta_net`: what its kernel is compiled for, its operands as addresses, and its scratch memory."""

from dataclasses import dataclass
from typing import NamedTuple

from numba import types

from bitnet_jit.kernels.numba.bound import round_up
from bitnet_jit.kernels.numba.compiler.jit import jit
from bitnet_jit.kernels.numba.delta_net.columns import Columns
from bitnet_jit.kernels.numba.intrinsics.elements import ELEMENT_BYTES
from bitnet_jit.kernels.numba.intrinsics.isa import ISAS
from bitnet_jit.kernels.numba.intrinsics.lanes import LANES
from bitnet_jit.problem import MAX_TAPS

TOKENS = 32  # of a sequence that are convolved, then recurred over, at a time
MANY_REGISTERS = 24


@dataclass(frozen=True)
class DeltaSpec:
    """The properties that the kernel is compiled for.

    Attributes:
        isa: name of the instruction set.
        x_dtype: of queries, keys and values, of their history and of y.
        heads: of values.
        key_heads: of queries and keys.
        dk: numbers of a key.
        dv: numbers of a value.
    """

    isa: str
    x_dtype: str
    heads: int
    key_heads: int
    dk: int
    dv: int

    @property
    def tile(self) -> Columns:
        return Columns(self.isa, 4 if ISAS[self.isa].registers >= MANY_REGISTERS else 2)

    @property
    def lanes(self) -> int:
        return ISAS[self.isa].lanes

    @property
    def group(self) -> int:
        """Return the value heads that share a key head."""
        return self.heads // self.key_heads

    @property
    def x_bytes(self) -> int:
        return ELEMENT_BYTES[self.x_dtype]

    @property
    def features(self) -> int:
        """Return the numbers of a token."""
        return 2 * self.key_heads * self.dk + self.heads * self.dv

    @property
    def padded_dk(self) -> int:
        return round_up(self.dk, LANES)

    @property
    def padded_dv(self) -> int:
        return round_up(self.dv, LANES)

    @property
    def width(self) -> int:
        """Return the numbers of a token that belong to one key head: q, k, and v of its value heads, each padded."""
        return 2 * self.padded_dk + self.group * self.padded_dv

    @property
    def token_bytes(self) -> int:
        return 4 * self.width

    @property
    def gate_bytes(self) -> int:
        """Return the bytes of a token's k q, and of g and beta of each value head."""
        return 4 * (1 + 2 * self.group)

    @property
    def row_bytes(self) -> int:
        """Return the bytes of a row of a state."""
        return 4 * self.dv

    @property
    def state_bytes(self) -> int:
        """Return the bytes of one head's state."""
        return self.dk * self.row_bytes

    @property
    def scratch_bytes(self) -> int:
        """Return the bytes of a thread's `Scratch`."""
        rows = (MAX_TAPS - 1 + TOKENS) + TOKENS + MAX_TAPS
        tokens = TOKENS * (self.gate_bytes + 8)
        blocks = 4 * self.dk * (self.tile.width + self.lanes)
        return round_up(rows * self.token_bytes + tokens + blocks + 8, 64)


class DeltaJob(NamedTuple):
    """The operands of one call, all int64."""

    mixed: int  # (tokens, features) spec.x_dtype, rows row_stride apart
    row_stride: int
    beta_alpha: int  # (tokens, 2 heads) float32
    conv_weight: int  # (features, taps) float32
    decay: int  # (heads,) float32
    dt_bias: int  # (heads,) float32
    history: int  # (slots, taps - 1, features) spec.x_dtype
    states: int  # (slots, heads, dk, dv) float32
    positions: int  # (tokens,) int32
    starts: int  # (sequences + 1,) int32
    slots: int  # (sequences,) int32
    y: int  # (tokens, heads * dv) spec.x_dtype
    tokens: int
    taps: int
    sequences: int
    threads: int
    counters: int  # workspace, as what follows
    scratch: int  # of each thread


class Scratch(NamedTuple):
    """The scratch memory of a thread: addresses of float32, and of int64 tokens."""

    block: int  # (dk, tile.width): columns of a state
    rest: int  # (dk, lanes): the last columns, and zeros beside them
    x: int  # (TOKENS, width): q, k, v behind the convolution; y in the place of v
    rows: int  # (MAX_TAPS - 1 + TOKENS, width): what is convolved; the first ones came before
    weight: int  # (MAX_TAPS, width): conv_weight of one key head, tap by tap
    gates: int  # (TOKENS, gate_bytes)
    tokens: int  # (TOKENS,) int64: their numbers in the call


@jit
def scratch_of(spec, address):
    """Return the scratch memory at an address."""
    rest = address + 4 * spec.dk * spec.tile.width
    x = rest + 4 * spec.dk * spec.lanes
    rows = x + TOKENS * spec.token_bytes
    weight = rows + (MAX_TAPS - 1 + TOKENS) * spec.token_bytes
    tokens = (weight + MAX_TAPS * spec.token_bytes + 7) // 8 * 8
    return Scratch(address, rest, x, rows, weight, tokens + 8 * TOKENS, tokens)


@jit
def parts_of(spec, part):
    """Return where part 0 (q), 1 (k), 2.. (v) of a key head's numbers lies, in elements.

    Where it begins in a token, of key head 0, and in a padded row; how many numbers it has, and with padding; the
    distance in a token from one key head's to the next one's.
    """
    if part < 2:
        dk, first = types.int64(spec.dk), part * spec.key_heads * spec.dk
        return first, part * spec.padded_dk, dk, types.int64(spec.padded_dk), dk
    first, place = 2 * spec.key_heads * spec.dk + (part - 2) * spec.dv, 2 * spec.padded_dk + (part - 2) * spec.padded_dv
    return first, place, types.int64(spec.dv), types.int64(spec.padded_dv), types.int64(spec.group * spec.dv)
