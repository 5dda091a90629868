"""`paged_attention` as launches: whole.py behind write.py, or split.py and joining.py where few programs would run.

Both give a token the same bits. Which one runs follows from the sizes of a call: a problem knows the number of tokens
alone, not those of sequences and pages.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from math import log2, prod, sqrt

import triton

from bitnet_jit.kernels.kernel import Kernel
from bitnet_jit.kernels.triton.attention.joining import join_kernel
from bitnet_jit.kernels.triton.attention.split import piece_kernel
from bitnet_jit.kernels.triton.attention.tiles import num_tiles
from bitnet_jit.kernels.triton.attention.whole import whole_kernel
from bitnet_jit.kernels.triton.attention.write import write_kernel
from bitnet_jit.kernels.triton.device import target
from bitnet_jit.kernels.triton.device.launch import Bound, Launch, Scratch, Varying
from bitnet_jit.kernels.triton.linear.tiles import ELEMENT_BYTES, fitting
from bitnet_jit.problem import PAGE, Problem

E = 2.718281828459045
MIN_ROWS = 16  # of a tile: tokens times heads of a group
FEW_TOKENS = 8  # per sequence: up to here a call is split into pieces
FULL = 2  # programs per multiprocessor that keep the memory busy, each with a sequence of its own
PROGRAMS = 3  # per multiprocessor, among which the pieces are shared out
DECODING_WARPS = 2  # of programs that take one piece after another
DECODING_STAGES = (3, 2, 1)  # of those, as shared memory allows
UNROLLED = 16  # pieces whose results are on their way together, at most; twice as many compile four times as long
JOINING_WARPS = 4  # of a program with one head of a token
WRITTEN_TOKENS = (16, 64)  # that a program writes at least and at most
MAX_SUMS = 2**26  # numbers that the pieces of a call may leave in scratch memory
ACC_NUMBERS = 64 * 128  # of a tile's sums, that registers hold twice
ARGUMENTS = ("qkv", "keys", "values", "rotary", "positions", "starts", "tables")
RESULTS = ("maxima", "totals", "sums")  # of pieces


@dataclass(frozen=True)
class AttentionConfig:
    """The tiles of a call.

    Attributes:
        rows: of a tile of `whole_kernel`.
        num_warps: of its programs.
        num_stages: of its loop over pieces, of whose keys and values it holds as many in shared memory.
        piece_warps: of the programs of `piece_kernel`, where each has one piece.
    """

    rows: int
    num_warps: int
    num_stages: int
    piece_warps: int


@dataclass(frozen=True)
class Sizes:
    """The numbers of tokens of a call, of its sequences, and of the pages that a sequence may have."""

    tokens: int
    sequences: int
    pages: int


def bind(problem: Problem, config: AttentionConfig) -> Varying:
    """Bind the op: launches by the shapes of a call's arguments."""

    def of(shapes: Mapping[str, tuple[int, ...]]) -> Bound:
        sizes = Sizes(prod(shapes["positions"]), *shapes["tables"])
        if is_split(problem, sizes):
            return Bound(lambda rows: split(problem, sizes, config), lambda rows: results(problem, sizes))
        return Bound(lambda rows: (write(problem, sizes), whole(problem, sizes, config)))

    return Varying(of)


def is_split(problem: Problem, sizes: Sizes) -> bool:
    """Return whether a call's pieces are apart: few tokens of each sequence, in few tiles, and room for the results."""
    numbers = sizes.tokens * problem.out_features * sizes.pages
    few = decoding_tiles(problem, sizes) * problem.kv_heads < FULL * target.multiprocessors(problem.gpu)
    return is_decoding(sizes) and few and numbers <= MAX_SUMS


def is_decoding(sizes: Sizes) -> bool:
    """Return whether a call has few tokens of each sequence, by their mean."""
    return sizes.tokens <= FEW_TOKENS * sizes.sequences


def decoding_tiles(problem: Problem, sizes: Sizes) -> int:
    """Return the number of tiles of a call with few tokens of each sequence."""
    return num_tiles(sizes.tokens, sizes.sequences, tokens_of(problem, min_rows(problem)))


def split(problem: Problem, sizes: Sizes, config: AttentionConfig) -> tuple[Launch, ...]:
    """Return the launches of split.py and joining.py."""
    tiles = decoding_tiles(problem, sizes) * problem.kv_heads
    turns = max(1, min(sizes.pages, triton.cdiv(PROGRAMS * target.multiprocessors(problem.gpu), tiles)))
    warps = config.piece_warps if turns == sizes.pages else DECODING_WARPS
    constants = {
        **sizes_of(sizes),
        "TURNS": turns,
        **heads_of(problem),
        "SCALE": scale_of(problem),
        "ROWS": min_rows(problem),
        "BLOCK_R": sequences_of(sizes),
        **blocks_of(problem, "BLOCK_HALF", "BLOCK_V"),
        "STAGES": decoding_stages(problem) if turns < sizes.pages else 0,
        "PDL": target.supports_pdl(problem.gpu),
    }
    shared = {name: constants[name] for name in ("R", "M", "HEADS", "HEAD_DIM")}
    joining = {
        **shared,
        **blocks_of(problem, "BLOCK_DIM"),
        "UNROLLED": min(UNROLLED, int(triton.next_power_of_2(sizes.pages))),
        "PDL": constants["PDL"],
    }
    operands = (*RESULTS, "positions", "starts", "y")
    return (
        Launch(piece_kernel, tiles * turns, (*ARGUMENTS, *RESULTS), constants, warps),
        Launch(join_kernel, sizes.tokens * problem.heads, operands, joining, JOINING_WARPS),
    )


def results(problem: Problem, sizes: Sizes) -> Scratch:
    """Return the scratch tensors of split.py."""
    pieces = sizes.tokens * problem.heads * sizes.pages
    return {
        "maxima": (pieces, "float32"),
        "totals": (pieces, "float32"),
        "sums": (pieces * problem.head_dim, "float32"),
    }


def write(problem: Problem, sizes: Sizes) -> Launch:
    """Return the launch of write.py."""
    least, most = WRITTEN_TOKENS
    tokens = min(most, max(least, triton.next_power_of_2(sizes.tokens // sizes.sequences)))
    constants = {
        **sizes_of(sizes),
        **heads_of(problem),
        "TOKENS": tokens,
        "BLOCK_R": sequences_of(sizes),
        **blocks_of(problem, "BLOCK_HALF", "BLOCK_DIM"),
        "PDL": target.supports_pdl(problem.gpu),
    }
    programs = num_tiles(sizes.tokens, sizes.sequences, tokens) * problem.kv_heads
    return Launch(write_kernel, programs, ARGUMENTS, constants, 4)


def whole(problem: Problem, sizes: Sizes, config: AttentionConfig) -> Launch:
    """Return the launch of whole.py."""
    rows, warps, stages = config.rows, config.num_warps, config.num_stages
    if is_decoding(sizes):
        rows, warps, stages = min_rows(problem), DECODING_WARPS, decoding_stages(problem)
    tiles = num_tiles(sizes.tokens, sizes.sequences, tokens_of(problem, rows))
    constants = {
        **sizes_of(sizes),
        "TILES": tiles,
        **heads_of(problem),
        "SCALE": scale_of(problem),
        "ROWS": rows,
        "BLOCK_R": sequences_of(sizes),
        **blocks_of(problem, "BLOCK_HALF", "BLOCK_V"),
        "STAGES": stages,
        "PDL": target.supports_pdl(problem.gpu),
    }
    return Launch(whole_kernel, tiles * problem.kv_heads, (*ARGUMENTS, "y"), constants, warps)


def decoding_stages(problem: Problem) -> int:
    """Return the stages of programs of few tokens: memory is what they wait for."""
    tiles = [AttentionConfig(min_rows(problem), DECODING_WARPS, stages, 1) for stages in DECODING_STAGES]
    return fitting(problem, tuple(tiles), lambda tile: size(problem, tile))[0].num_stages


def sizes_of(sizes: Sizes) -> dict[str, int]:
    """Return the constants that tell the sizes of a call."""
    return {"T": sizes.tokens, "R": sizes.sequences, "M": sizes.pages}


def heads_of(problem: Problem) -> dict[str, int]:
    """Return the constants that tell how heads lie in a token."""
    return {"HEADS": problem.heads, "KV": problem.kv_heads, "HEAD_DIM": problem.head_dim}


def blocks_of(problem: Problem, *names: str) -> dict[str, int]:
    """Return the sides of tiles: of half a head, of a head, of half of a value."""
    half, whole = (max(16, int(triton.next_power_of_2(size))) for size in (problem.head_dim // 2, problem.head_dim))
    sides = {"BLOCK_HALF": half, "BLOCK_DIM": whole, "BLOCK_V": max(16, whole // 2)}
    return {name: sides[name] for name in names}


def scale_of(problem: Problem) -> float:
    """Return the factor from products of queries and keys to exponents of 2."""
    return log2(E) / sqrt(problem.head_dim)


def sequences_of(sizes: Sizes) -> int:
    """Return the size of a block of sequences, padding among them."""
    return int(triton.next_power_of_2(sizes.sequences + 1))


def tokens_of(problem: Problem, rows: int) -> int:
    """Return the number of tokens of a tile."""
    return rows // (problem.heads // problem.kv_heads)


def min_rows(problem: Problem) -> int:
    """Return the rows of the smallest tile, which has a group's heads of one token."""
    return max(MIN_ROWS, int(triton.next_power_of_2(problem.heads // problem.kv_heads)))


def max_rows(problem: Problem) -> int:
    """Return the rows of the largest tile whose products are of the same instructions as the smallest one's.

    On NVIDIA GPUs up to 9.0, and on those of capability 12, these are products of 16 in K in order, by whatever
    instruction. Others' instructions depend on the tile; float32 has none, and its operands take many registers.
    """
    gpu, least = problem.gpu, min_rows(problem)
    known = gpu is None or (target.is_nvidia(gpu) and float(gpu.arch) // 1 in (8, 9, 12))
    if problem.cache_dtype == "float32" or not known:
        return least
    return max(least, min(128, ACC_NUMBERS // blocks_of(problem, "BLOCK_DIM")["BLOCK_DIM"] * 2))


def configs(problem: Problem) -> tuple[AttentionConfig, ...]:
    """Return configs with the tiles that registers and shared memory hold, the likeliest best first."""
    most = max_rows(problem)
    tiles = [(rows, max(2, rows // 16), stages) for rows in (64, 128, 32, 16) for stages in (2, 3, 1)]
    held = [tile for tile in tiles if min_rows(problem) <= tile[0] <= most] or [(most, max(4, most // 16), 1)]
    return fitting(problem, tuple(AttentionConfig(*tile, 4) for tile in held), lambda tile: size(problem, tile))[:4]


def space(problem: Problem) -> tuple[AttentionConfig, ...]:
    """Return configs of all tiles that may suit: 16 rows per warp as the matrix units take them, or 8 or 32."""
    least, most = min_rows(problem), max_rows(problem)
    tiles = product((16, 32, 64, 128, 256), (1, 2, 4, 8), (1, 2, 3, 4), (2, 4))
    held = tuple(AttentionConfig(*tile) for tile in tiles if least <= tile[0] <= most)
    suited = tuple(tile for tile in held if tile.rows // 32 <= tile.num_warps <= tile.rows // 8)
    return fitting(problem, suited, lambda tile: size(problem, tile)) if suited else ()


def size(problem: Problem, config: AttentionConfig) -> int:
    """Return the bytes of shared memory that a program of `whole_kernel` needs: queries, and pages on their way."""
    width, num_bytes = 2 * blocks_of(problem, "BLOCK_HALF")["BLOCK_HALF"], ELEMENT_BYTES[problem.cache_dtype]
    pages = 2 * config.num_stages if config.num_stages > 1 else 1  # without a pipeline values take the place of keys
    return (config.rows + pages * PAGE) * width * num_bytes


def unsupported_reason(problem: Problem) -> str | None:
    """Return why these kernels cannot run a problem, or None."""
    if problem.cache_dtype == "int8":
        return "takes a cache of floats, got one of int8"
    if min_rows(problem) > 256:
        return f"takes groups of at most 256 heads, got {problem.heads // problem.kv_heads}"
    return target.unsupported_reason(problem.gpu)


KERNELS = (Kernel("triton.paged_attention", "paged_attention", bind, configs, unsupported_reason, space, version=2),)
