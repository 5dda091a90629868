"""Small GGUF files, written here byte by byte, so that they can lie."""

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ALIGNMENT = 32
F32, F16, TQ1_0, TQ2_0, I2_S, Q2_0, PQ2_0, PTQ1_0 = 0, 1, 34, 35, 36, 42, 142, 143


def string(text: str) -> bytes:
    """Return a string as the format has it."""
    content = text.encode()
    return struct.pack("<Q", len(content)) + content


def value(given: Any) -> bytes:
    """Return a value behind its type: a flag, u32, f32, string, or an array of one of them; NumPy's arrays are i32."""
    if isinstance(given, np.ndarray):
        return struct.pack("<IIQ", 9, 5, len(given)) + given.astype("<i4").tobytes()
    if isinstance(given, bool):
        return struct.pack("<I?", 7, given)
    if isinstance(given, int):
        return struct.pack("<II", 4, given)
    if isinstance(given, float):
        return struct.pack("<If", 6, given)
    if isinstance(given, str):
        return struct.pack("<I", 8) + string(given)
    items = [value(item) for item in given]
    kind = items[0][:4] if items else struct.pack("<I", 8)
    return struct.pack("<I", 9) + kind + struct.pack("<Q", len(items)) + b"".join(item[4:] for item in items)


def write_gguf(
    path: Path,
    metadata: Mapping[str, Any],
    tensors: Mapping[str, tuple[int, Sequence[int], bytes]],
    version: int = 3,
    alignment: int = ALIGNMENT,
) -> Path:
    """Write a file; a tensor is the id of its type, its shape, rows first, and its bytes."""
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata))
    for key, given in metadata.items():
        head += string(key) + value(given)
    data = b""
    for name, (type_id, shape, content) in tensors.items():
        head += string(name) + struct.pack("<I", len(shape))
        head += struct.pack(f"<{len(shape)}Q", *reversed(shape)) + struct.pack("<IQ", type_id, len(data))
        data += content + bytes(-len(content) % alignment)
    path.write_bytes(head + bytes(-len(head) % alignment) + data)
    return path


def pack_blocks(codes: np.ndarray, scale: float | np.ndarray, type_id: int) -> bytes:
    """Pack codes (N, K) of -1, 0, 1 with a scale of the tensor or of each block, element by element, as tables say."""
    return {TQ1_0: tq1_0, TQ2_0: tq2_0, I2_S: i2_s, Q2_0: q2_0, PQ2_0: pq2_0, PTQ1_0: ptq1_0}[type_id](codes, scale)


def in_blocks(codes: np.ndarray, scale: float | np.ndarray, block: int) -> tuple[np.ndarray, np.ndarray]:
    """Return digits 0, 1, 2 by blocks (B, block) int64, and the bytes of their scales, float16 (B, 2)."""
    digits = codes.reshape(-1, block).astype(np.int64) + 1
    scales = np.broadcast_to(np.asarray(scale, np.float16).reshape(-1), len(digits)).copy()
    return digits, scales.view(np.uint8).reshape(-1, 2)


def trits(digits: np.ndarray) -> np.ndarray:
    """Return the byte of digits (B, n, bytes), n at most 5, the first the most significant."""
    total = sum(digits[:, n] * 3 ** (4 - n) for n in range(digits.shape[1]))
    return ((total * 256 + 242) // 243).astype(np.uint8)


def bits(digits: np.ndarray, shifts: Sequence[int]) -> np.ndarray:
    """Return the byte of digits (B, 4, bytes), digit l at bit shifts[l]."""
    return sum(digits[:, n] << shift for n, shift in enumerate(shifts)).astype(np.uint8)


def tq1_0(codes, scale):
    digits, scales = in_blocks(codes, scale, 256)
    runs = [(0, 5, 32), (160, 5, 16), (240, 4, 4)]
    parts = [trits(digits[:, first : first + n * m].reshape(-1, n, m)) for first, n, m in runs]
    return np.concatenate([*parts, scales], 1).tobytes()


def ptq1_0(codes, scale):
    digits, scales = in_blocks(codes, scale, 128)
    runs = [(0, 5, 16), (80, 5, 8), (120, 4, 2)]
    parts = [trits(digits[:, first : first + n * m].reshape(-1, n, m)) for first, n, m in runs]
    return np.concatenate([*parts, scales], 1).tobytes()


def tq2_0(codes, scale):
    digits, scales = in_blocks(codes, scale, 256)
    parts = [bits(digits[:, first : first + 128].reshape(-1, 4, 32), (0, 2, 4, 6)) for first in (0, 128)]
    return np.concatenate([*parts, scales], 1).tobytes()


def q2_0(codes, scale, block=64):
    digits, scales = in_blocks(codes, scale, block)
    packed = bits(digits.reshape(-1, block // 4, 4).swapaxes(1, 2), (0, 2, 4, 6))
    return np.concatenate([scales, packed], 1).tobytes()


def pq2_0(codes, scale):
    return q2_0(codes, scale, 128)


def i2_s(codes, scale, variant="x86"):
    digits = codes.astype(np.int64) + 1
    if variant == "rows4":
        packed = bits(digits.reshape(-1, 4, digits.shape[1]), (6, 4, 2, 0))
    else:
        run = {"x86": 32, "arm": 16}[variant]
        packed = bits(digits.reshape(-1, 4, run), (6, 4, 2, 0))
    return packed.tobytes() + np.float32(scale).tobytes() + b"\x5a" * 28
