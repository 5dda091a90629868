"""The two dialects of Q2_0, blocks of 64 (llama.cpp's) and of 128 (the first Ternary-Bonsai files), under one id.

No key tells them apart, but sizes do: n numbers take n / 64 * 18 or n / 128 * 34 bytes, padded to the alignment.
"""

from bitnet_jit.checkpoints.formats.gguf.types import Q2_0, Q2_0_LEGACY

Q2_0_SIZES = {64: Q2_0, 128: Q2_0_LEGACY}


def dialect_of(tensors: dict[str, tuple[int, int]], alignment: int) -> int:
    """Return the block of a file's Q2_0: 64 or 128.

    Args:
        tensors: of each tensor of that type, its numbers, and the bytes up to the next tensor.
        alignment: of the file.

    Raises:
        ValueError: neither fits every tensor, or both do.

    >>> dialect_of({"blk.0.attn_q.weight": (4096, 4096 // 128 * 34)}, 32)
    128
    """
    fitting = [
        block
        for block, of in Q2_0_SIZES.items()
        if all(
            count % block == 0 and of.size(count) <= room < of.size(count) + alignment
            for count, room in tensors.values()
        )
    ]
    if len(fitting) == 1:
        return fitting[0]
    name, (count, room) = next(iter(tensors.items()))
    problem = "which could be either" if fitting else "which is neither"
    raise ValueError(f"Q2_0 of blocks of 64 or of 128, {problem} by the bytes of {name} ({count} numbers in {room})")
