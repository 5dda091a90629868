"""`ExactFloats`: a folder without a quantization_config whose weights are ternary times a scale all the same.

So are models that were made ternary for floating-point activations and saved as floats (Ternary-Bonsai "-unpacked",
BitCPM). Nothing is rounded: a weight that is not exactly ternary, as those of a plain model, is refused.
"""

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from bitnet_jit.checkpoints.checks import Oddities, check_finite, count_codes
from bitnet_jit.checkpoints.decoder_names import LinearName
from bitnet_jit.checkpoints.formats.hf_storage import FloatWeights, read_bias
from bitnet_jit.checkpoints.tensor_files import TensorFiles
from bitnet_jit.checkpoints.ternary import TernaryWeight
from bitnet_jit.packing.i2 import I2
from bitnet_jit.quant.ternary import coarsest_scale, split_ternary

FINEST = 32  # inputs that share a scale, at least
COARSER = (2, 4, 8)  # of which one scale may stand for so many; then for the whole row
SLICE_ELEMENTS = 2**18  # of a weight, split at a time


@dataclass(frozen=True)
class ExactFloats(FloatWeights):
    """Floats that are codes times scales of groups, rows or the tensor; activations stay floats."""

    description = "floats that are ternary times scales"

    def read(self, files: TensorFiles, layer: LinearName, out: torch.Tensor, oddities: Oddities) -> TernaryWeight:
        """Read a layer, its codes into `out`."""
        name = f"{layer.name}.weight"
        w = check_finite(files.place(name), files.read(name))
        w_scale, group_size = pack_exact(files, name, w, out)
        oddities.note_density(name, count_codes(out, layer.in_features))
        return TernaryWeight(out, w_scale, read_bias(files, layer), layer.in_features, group_size, "a16")


def pack_exact(files: TensorFiles, name: str, w: torch.Tensor, out: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Fill `out`, canonical i2, with the codes of w (N, K); return the coarsest scales, and the inputs per group or 0.

    Raises:
        CheckpointError: a group of the finest size has two magnitudes.
    """
    scales = []
    step = max(1, SLICE_ELEMENTS // w.shape[1])
    for start in range(0, w.shape[0], step):
        w_q, scale, exact = split_ternary(w[start : start + step], FINEST)
        if not bool(exact.all()):
            share = 1 - float(exact.float().mean())
            raise files.error(
                name,
                f"weights that are -1, 0 or 1 times a scale per {FINEST} inputs or more (a plain model is not "
                "quantized silently: see `bitnet_jit.convert`)",
                f"{share:.1%} of its groups from row {start} on with two magnitudes",
            )
        out[start : start + step] = I2.pack(w_q)
        scales.append(scale)
    return merged(torch.cat(scales), w.shape[1])


def merged(scales: torch.Tensor, in_features: int) -> tuple[torch.Tensor, int]:
    """Return scales of the finest groups (N, groups) as the coarsest that are the same, and the inputs per group or 0.

    >>> merged(torch.tensor([[2.0, 0.0, 3.0, 3.0]]), 128)
    (tensor([[2., 3.]]), 64)
    """
    coarsest = coarsest_scale(scales)
    if coarsest.dim() < 2:
        return coarsest, 0
    size = 1
    for wider in COARSER:
        groups = F.pad(scales, (0, -scales.shape[1] % wider)).unflatten(1, (-1, wider))
        if bool(((groups != 0) & (groups != groups.amax(2, keepdim=True))).any()):
            break
        size = wider
    groups = F.pad(scales, (0, -scales.shape[1] % size)).unflatten(1, (-1, size))
    return groups.amax(2), min(size * FINEST, in_features)
