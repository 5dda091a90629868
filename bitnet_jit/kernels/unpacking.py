"""Packed weights in pieces of codes, for kernels in plain operations: NumPy's, torch's or MLX's arrays."""

from collections.abc import Iterator

from bitnet_jit.kernels import registry
from bitnet_jit.packing.format import Array
from bitnet_jit.problem import Problem

EXACT_INPUTS = 2**16  # whose products with codes of int8 float32 adds up exactly: 128 * 2^16 < 2^24
CHUNK_ELEMENTS = 2**24  # of the unpacked weight


def unpacked_chunks(w_packed: Array, problem: Problem) -> Iterator[tuple[int, Array]]:
    """Yield (first output, codes -1..1 (n, K) int8) by pieces; another backend's layout is undone first."""
    layout = registry.get_layout(problem.layout)
    canonical = layout.to_canonical(w_packed, problem.out_features, problem.in_features)
    step = max(1, CHUNK_ELEMENTS // problem.in_features)
    for start in range(0, problem.out_features, step):
        yield start, layout.format.unpack_unchecked(canonical[start : start + step], problem.in_features)
