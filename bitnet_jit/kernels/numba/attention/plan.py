"""How a call is cut into pieces: blocks of consecutive tokens of a sequence, and parts of their pages.

Few blocks of few rows, such as one token with a long context, are cut by pages too, so that all threads have work: into
large parts first, then into smaller ones, so that threads end together. The parts of a block leave a result for each
page, which are joined in the order of pages (parts.py): the same operations as those of a block in one part, so the
same bits.
"""

from typing import NamedTuple

from numba import types

from bitnet_jit.kernels.numba.attention.job import AttentionSpec
from bitnet_jit.kernels.numba.compiler.jit import inlined
from bitnet_jit.kernels.numba.intrinsics.elements import store_float
from bitnet_jit.kernels.numba.intrinsics.pointers import pointer
from bitnet_jit.kernels.numba.intrinsics.scalars import F0, least, most
from bitnet_jit.kernels.numba.threads.parallel import TEAM_BYTES
from bitnet_jit.problem import PAGE

PIECES_PER_THREAD = 4  # fewer share the work badly
SHARE = 2  # a part is a thread's share of the pages that are left, divided by this
MIN_SHARE = 32  # and no smaller than a thread's share of all pages, divided by this
PARTS_PER_THREAD = 12  # of pages, at most: about SHARE * ln(2 * MIN_SHARE), as their sizes fall
PART_ROWS = 32  # blocks of more are not cut by pages
MAX_PARTIAL_BYTES = 2**26
SMALL_WORK = 4096  # of `work_of`: some 5 us, for which no other thread is woken
READ_ROWS = 8  # as many rows take the time of reading a page from memory
PIECE_BYTES = 72
HEADER = 64  # bytes of counters with which the results of a block in parts begin


class Piece(NamedTuple):
    """A piece of the work; in memory nine int64 in this order."""

    token: int  # the first one
    tokens: int
    position: int  # of the first token
    sequence: int
    first: int  # page
    last: int  # page, behind the part
    results: int  # the address of what parts of the block leave; 0 where it is one piece
    head: int  # the first one of keys and values
    heads: int  # of keys and values


@inlined
def piece_at(pieces, number):
    """Read a piece."""
    memory = pointer(pieces + number * PIECE_BYTES, types.int64)
    return Piece(memory[0], memory[1], memory[2], memory[3], memory[4], memory[5], memory[6], memory[7], memory[8])


@inlined
def put_piece(pieces, number, piece):
    """Write a piece."""
    memory = pointer(pieces + number * PIECE_BYTES, types.int64)
    memory[0], memory[1], memory[2], memory[3] = piece.token, piece.tokens, piece.position, piece.sequence
    memory[4], memory[5], memory[6] = piece.first, piece.last, piece.results
    memory[7], memory[8] = piece.head, piece.heads


@inlined
def clear_token(spec, y, token):
    """Write the output of a token that is padding: zeros."""
    for i in range(token * spec.heads * spec.head_dim, (token + 1) * spec.heads * spec.head_dim):
        store_float(spec.x_dtype, y, i, F0)


@inlined
def heads_of(spec, tokens):
    """Return how many heads of keys and values a piece has: all where rows are few, as pages lie in memory whole."""
    return spec.kv_heads if tokens * spec.heads <= spec.rows else 1


@inlined
def make_blocks(spec, positions, starts, sequences, tokens, y, block, pieces):
    """Write the blocks of a call, of at most `block` tokens, and return how many; write the outputs of padding."""
    position, start = pointer(positions, types.int32), pointer(starts, types.int32)
    number = 0
    for token in range(least(start[0], tokens)):
        clear_token(spec, y, token)
    for sequence in range(sequences):
        token, end = types.int64(start[sequence]), least(start[sequence + 1], tokens)
        while token < end:
            first, count = types.int64(position[token]), 1
            if first < 0:
                clear_token(spec, y, token)
            else:
                while count < block and token + count < end and position[token + count] == first + count:
                    count += 1
                last = (first + count - 1) // PAGE + 1
                put_piece(pieces, number, Piece(token, count, first, sequence, 0, last, 0, 0, heads_of(spec, count)))
                number += 1
            token += count
    for token in range(most(start[sequences], 0), tokens):
        clear_token(spec, y, token)
    return number


@inlined
def block_tokens(spec, tokens, threads):
    """Return the most tokens of a block: fewer where there would be too few blocks for the threads."""
    if threads < 2:
        return spec.block
    share = tokens * spec.kv_heads // (PIECES_PER_THREAD * threads)
    return least(spec.block, most(most(1, PART_ROWS // spec.group), share))


@inlined
def work_of(spec, blocks, number):
    """Return about how much work blocks are: rows by pages by head_dim, reads of pages counted as rows."""
    work = 0
    for i in range(number):
        block = piece_at(blocks, i)
        work += (block.tokens * spec.group + READ_ROWS) * block.last
    return work * spec.kv_heads * spec.head_dim


@inlined
def pages_to_share(spec, blocks, number, threads):
    """Return how many pages all blocks have; 0 where blocks are enough for the threads."""
    pages = pieces = 0
    for i in range(number):
        block = piece_at(blocks, i)
        pages += block.last
        pieces += spec.kv_heads // block.heads
    return 0 if threads < 2 or pieces >= PIECES_PER_THREAD * threads else pages


@inlined
def make_pieces(spec, blocks, number, threads, results, end, pieces):
    """Write the pieces of blocks, and return how many; the results of parts lie between two addresses.

    The last blocks come first, since they see more pages.
    """
    rest, count = pages_to_share(spec, blocks, number, threads), 0
    smallest = most(1, rest // (MIN_SHARE * threads))
    for i in range(number):
        block = piece_at(blocks, number - 1 - i)
        rows, pages, head, place = block.tokens * spec.group, block.last, 0, 0
        size = spec.kv_heads * results_bytes(spec, rows, pages)
        if rest > 0 and rows <= PART_ROWS and results + size <= end:
            place = results
            results += size
            clear_counters(spec, place, rows, pages)
            head = whole_heads(spec, block, rest, threads) if spec.is_int8 else 0
            count += put_heads(spec, block, 0, head, 1, 0, pages, 0, pieces + count * PIECE_BYTES)
        heads, first, left = least(block.heads, spec.kv_heads - head), 0, rest * spec.kv_heads - head * pages
        while first < pages and heads > 0:
            part = left // ((spec.kv_heads - head) * SHARE * threads)
            last = least(first + most(smallest, part), pages) if place else pages
            here = pieces + count * PIECE_BYTES
            count += put_heads(spec, block, head, spec.kv_heads, heads, first, last, place, here)
            left -= (last - first) * (spec.kv_heads - head)
            first = last
        rest -= pages
    return count


@inlined
def whole_heads(spec, block, pages, threads):
    """Return how many heads of a block's, the first ones, are pieces of their own: while there is plenty for all.

    Parts cost what they leave for each page, which other threads read: beside codes that is a seventh of all bytes.
    Pages of floats come sooner in the order of memory, head by head.
    """
    head, left = 0, pages * spec.kv_heads
    while head < spec.kv_heads and 2 * left >= 3 * threads * block.last:
        head += 1
        left -= block.last
    return head


@inlined
def put_heads(spec, block, head, end, heads, first, last, results, pieces):
    """Write the pieces of some pages of a block, of heads up to `end`, each of `heads`; return how many."""
    count = 0
    while head < end:
        piece = Piece(block.token, block.tokens, block.position, block.sequence, first, last, results, head, heads)
        put_piece(pieces, count, piece)
        head += heads
        count += 1
    return count


@inlined
def results_bytes(spec, rows, pages):
    """Return the bytes of what the parts of a block leave for one head: counters, joined sums, sums page by page."""
    return HEADER + rows * (pages + 1) * spec.result_bytes


@inlined
def result_at(spec, results, rows, number):
    """Return the address of the sums of page `number` in what parts leave for one head."""
    return results + HEADER + rows * (number + 1) * spec.result_bytes


@inlined
def end_at(spec, results, rows, number):
    """Return the address of an int64: where a part ends that began with page `number`, once it is done."""
    return result_at(spec, results, rows, number) + 4 * spec.stride + 8


@inlined
def clear_counters(spec, results, rows, pages):
    """Say that no part is done yet, of all heads."""
    for head in range(spec.kv_heads):
        place = results + head * results_bytes(spec, rows, pages)
        header = pointer(place, types.int64)
        header[0], header[1] = 0, 0
        for number in range(pages):
            pointer(end_at(spec, place, rows, number), types.int64)[0] = 0


@inlined
def scratch_at(spec, tokens, threads):
    """Return where the threads' scratch memory begins in a workspace: behind counters, blocks and pieces."""
    parts = 2 * (PIECES_PER_THREAD + PARTS_PER_THREAD) * threads
    pieces = tokens + spec.kv_heads * (tokens + parts)
    return TEAM_BYTES + (PIECE_BYTES * pieces + 63) // 64 * 64


def workspace_bytes(spec: AttentionSpec, tokens: int, threads: int, pages: int) -> int:
    """Return the bytes of a workspace, for calls with tables of `pages` pages."""
    fixed: int = scratch_at.py_func(spec, tokens, threads) + threads * spec.scratch_bytes
    if threads < 2:
        return fixed
    rows = min(tokens * spec.heads, PIECES_PER_THREAD * threads * PART_ROWS * spec.kv_heads)
    headers = HEADER * PIECES_PER_THREAD * threads * spec.kv_heads
    return fixed + min(headers + rows * (pages + 1) * spec.result_bytes, MAX_PARTIAL_BYTES)
