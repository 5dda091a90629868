"""Canonical weights of our packings -> canonical `i2`, without unpacking the weight."""

import torch

from bitnet_jit.packing import FORMATS

NO_WEIGHT = 0b01  # the code of weight 0, in i2


def to_i2(source: torch.Tensor, out: torch.Tensor, in_features: int, packing: str) -> None:
    """Fill `out`, canonical i2 (N, ceil(K / 4)), from a canonical weight of ours; no codes become codes 3.

    >>> codes = torch.tensor([[-1, 0, 1, 1, 0, -1, -1]], dtype=torch.int8)
    >>> out = torch.empty(1, 2, dtype=torch.uint8)
    >>> to_i2(FORMATS["t5"].pack(codes), out, 7, "t5")
    >>> torch.equal(out, FORMATS["i2"].pack(codes))
    True
    """
    out.copy_(source if packing == "i2" else from_t5(source)[:, : out.shape[1]])
    if rest := in_features % 4:  # the last byte's codes behind K
        mask = 4**rest - 1
        out[:, -1] = out[:, -1] & mask | sum(NO_WEIGHT << 2 * digit for digit in range(rest, 4))


def from_t5(source: torch.Tensor) -> torch.Tensor:
    """Turn uint8 (N, C) of five codes per byte into uint8 (N, ceil(C / 4) * 5) of four: four bytes become five."""
    rows, columns = source.shape
    words = torch.zeros(rows, -(-columns // 4), dtype=torch.int64, device=source.device)
    table = T5_IN_I2.to(source.device)
    for place in range(4):
        part = table[source[:, place::4].int()]
        words[:, : part.shape[1]] |= part << 10 * place
    return words.view(torch.uint8).view(rows, -1, 8)[:, :, :5].reshape(rows, -1)


def t5_in_i2() -> torch.Tensor:
    """Compute the ten bits of the codes of every byte of five, int64 (256,); bytes above 242 give codes 3."""
    every_byte = torch.arange(256, device="cpu")
    codes = torch.stack(FORMATS["t5"].digits(every_byte)).where(every_byte < 3**5, 3)
    shifts = 2 * torch.arange(5, device="cpu")[:, None]
    return (codes << shifts).sum(0)


T5_IN_I2 = t5_in_i2()
