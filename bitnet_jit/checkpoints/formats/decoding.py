"""Codes as a file holds them -> canonical `i2`, and how many there are of each kind, on the device where they lie.

A backend of the device may do so in one compiled pass (`Backend.decode`). Torch's operations do it everywhere else, and
where a weight is so small that nobody should wait for a compiler.
"""

import torch

from bitnet_jit.checkpoints.checks import CodeCount, count_codes
from bitnet_jit.checkpoints.formats import own_packing
from bitnet_jit.checkpoints.formats.gguf import runs
from bitnet_jit.checkpoints.formats.hf_packing import repack
from bitnet_jit.kernels import registry
from bitnet_jit.packing.stored import Blocks, Columns, Stored

MIN_BYTES = 2**18  # of canonical codes that a compiled pass is worth


def decode(stored: Stored, source: torch.Tensor, out: torch.Tensor, in_features: int) -> CodeCount:
    """Fill `out` with the canonical codes of a weight, and count them.

    Args:
        stored: how `source` holds codes; the name of a packing of ours is its canonical weight.
        source: uint8, contiguous, all bytes of the weight and no others.
        out: uint8 (N, ceil(K / 4)), contiguous on the same device.
        in_features: K; of `Blocks` a multiple of their elements.

    >>> out = torch.empty(2, 1, dtype=torch.uint8)
    >>> decode("t5", torch.tensor([[121], [0]], dtype=torch.uint8), out, 3), out.tolist()
    (CodeCount(codes=6, zeros=3, threes=0), [[85], [64]])
    """
    compiled = registry.decoder(out.device.type) if out.numel() >= MIN_BYTES else None
    if compiled is None:
        decode_by_torch(stored, source, out, in_features)
        return count_codes(out, in_features)
    ones, threes = compiled(stored, source, out, in_features)
    filling = len(out) * (4 * out.shape[1] - in_features)
    return CodeCount(len(out) * in_features, ones - filling, threes)


def decode_by_torch(stored: Stored, source: torch.Tensor, out: torch.Tensor, in_features: int) -> None:
    """Fill `out` with the canonical codes of a weight by torch's operations; arguments as `decode`."""
    if isinstance(stored, Blocks):
        runs.to_i2(source.view(-1, stored.num_bytes), stored.runs, out.view(-1, stored.elements // 4))
    elif isinstance(stored, Columns):
        repack(source.view(-1, in_features), out, in_features, stored)
    else:
        own_packing.to_i2(source.view(len(out), -1), out, in_features, stored)
