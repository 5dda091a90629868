"""Blocks of GGUF's quantized floats -> float32, as ggml computes them: products and differences in float32.

| type | block, bytes | value of element e                                                       |
|------|--------------|--------------------------------------------------------------------------|
| Q4_0 | 32, 18       | float16 d, 16 bytes q, the low nibbles first; (q - 8) d                  |
| Q8_0 | 32, 34       | float16 d, 32 int8 q; q d                                                |
| Q4_K | 256, 144     | float16 d, m, 12 bytes of 6-bit s, l, 128 bytes q; (d s) q - (m l)       |
| Q6_K | 256, 210     | 128 bytes of low nibbles, 64 of high bits, 16 int8 s, float16 d; (d s) q |

Every function takes blocks, uint8 (B, bytes), and returns float32 (B, block).
"""

import torch


def halves(blocks: torch.Tensor, start: int) -> torch.Tensor:
    """Return the float16 at a byte of every block, as float32 (B, 1)."""
    return blocks[:, start : start + 2].contiguous().view(torch.float16).float()


def nibbles(packed: torch.Tensor) -> torch.Tensor:
    """Return the low nibbles of bytes (B, n), then the high ones: uint8 (B, 2, n)."""
    return torch.stack((packed & 15, packed >> 4), 1)


def q4_0(blocks: torch.Tensor) -> torch.Tensor:
    """Decode blocks of Q4_0."""
    return (nibbles(blocks[:, 2:]).flatten(1).float() - 8) * halves(blocks, 0)


def q8_0(blocks: torch.Tensor) -> torch.Tensor:
    """Decode blocks of Q8_0."""
    return blocks[:, 2:].contiguous().view(torch.int8).float() * halves(blocks, 0)


def q4_k(blocks: torch.Tensor) -> torch.Tensor:
    """Decode blocks of Q4_K: eight parts of 32, whose nibbles share bytes two by two."""
    low, middle, high = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    scales = torch.cat((low & 63, (high & 15) | (low >> 6) << 4), 1).float() * halves(blocks, 0)
    least = torch.cat((middle & 63, (high >> 4) | (middle >> 6) << 4), 1).float() * halves(blocks, 2)
    q = nibbles(blocks[:, 16:].reshape(-1, 32)).view(-1, 8, 32)
    return (scales[:, :, None] * q - least[:, :, None]).flatten(1)


def q6_k(blocks: torch.Tensor) -> torch.Tensor:
    """Decode blocks of Q6_K: two halves of four parts of 32."""
    low = nibbles(blocks[:, :128].reshape(-1, 64))  # (2 B, 2, 64): parts 0 and 1, then 2 and 3
    shifts = torch.tensor([0, 2, 4, 6], dtype=torch.uint8, device=blocks.device)
    high = blocks[:, 128:192].reshape(-1, 1, 32) >> shifts[:, None] & 3
    q = (low.view(-1, 4, 32) | high << 4).view(-1, 16, 16).float() - 32
    scales = blocks[:, 192:208].contiguous().view(torch.int8).float() * halves(blocks, 208)
    return (scales[:, :, None] * q).flatten(1)
