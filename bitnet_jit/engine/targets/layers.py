"""Packed layers with random codes, as the targets name them by their sizes."""

import torch

from bitnet_jit.devices.memory import check_fits
from bitnet_jit.nn.packed_bit_linear import PackedBitLinear

SCALE = 0.02
BYTES_PER_WEIGHT = 10  # of the random numbers, the codes, and what packs them


def random_layer(out_features: int, in_features: int, device: str = "cpu", packing: str = "i2") -> PackedBitLinear:
    """Return a packed layer with random codes, the same ones each time.

    Args:
        out_features, in_features: N and K.
        device: torch's word for where it lies.
        packing: "i2" or "t5".

    Raises:
        InvalidInput: memory does not suffice.

    >>> random_layer(8, 16)
    PackedBitLinear(in_features=16, out_features=8, ...)
    """
    check_fits(f"a layer of {out_features}x{in_features}", BYTES_PER_WEIGHT * out_features * in_features)
    generator = torch.Generator().manual_seed(0)
    w_q = torch.randint(-1, 2, (out_features, in_features), dtype=torch.int8, device="cpu", generator=generator)
    scale = torch.tensor(SCALE, dtype=torch.float32, device="cpu")
    return PackedBitLinear.from_codes(w_q, scale, format=packing).to(device).eval()


def random_rows(rows: int, features: int, device: str = "cpu") -> torch.Tensor:
    """Return random inputs (rows, features), float32, on a device."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(rows, features, dtype=torch.float32, device="cpu", generator=generator).to(device)
