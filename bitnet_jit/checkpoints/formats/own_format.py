"""Our own format on disk: safetensors with codes along K, five a byte (`t5`) or four (`i2`).

| tensor         | holds                                                        |
|----------------|--------------------------------------------------------------|
| *.weight       | uint8 (N, ceil(K / codes a byte)), a canonical packed weight |
| *.weight_scale | float32 (1,), a multiplier: mean|w|                          |
| *.bias         | as the layer adds it                                         |
| all else       | in its own dtype                                             |

Each file's metadata says version, packing, scale layout, activation mode, and (N, K) of every ternary weight. Names are
those of Hugging Face, config.json too, but for a quantization_config of `quant_method` "bitnet_jit".
"""

import json
from functools import lru_cache
from typing import Any

import torch

from bitnet_jit.checkpoints.tensor_files import TensorFiles
from bitnet_jit.packing import FORMATS
from bitnet_jit.system.reading import parse_json

VERSION = "1"
METHOD = "bitnet_jit"
SCALE, ACTIVATION = "tensor", "a8"  # the one scale layout and activation mode of version 1
NO_WEIGHT = 0b01  # the code of weight 0, in i2


def own_config(packing: str) -> dict[str, Any]:
    """What config.json says of the layers."""
    return {"quant_method": METHOD, "packing": packing, "modules_to_not_convert": None}


def own_metadata(packing: str, shapes: dict[str, tuple[int, int]]) -> dict[str, str]:
    """What a file says of its ternary weights, given the (N, K) of each."""
    return {
        "format": "pt",
        "bitnet_jit": VERSION,
        "packing": packing,
        "scale": SCALE,
        "activation": ACTIVATION,
        "shapes": json.dumps(shapes),
    }


def check_own(files: TensorFiles, name: str, packing: str, out_features: int, in_features: int) -> None:
    """Raise CheckpointError unless a weight is there, and its file says what a reader of this version expects of it."""
    packed_shape, shape = FORMATS[packing].packed_shape(out_features, in_features), [out_features, in_features]
    said = files.metadata(name) if name in files.entries else {}
    wanted = {"bitnet_jit": VERSION, "packing": packing, "scale": SCALE, "activation": ACTIVATION}
    for key, value in wanted.items():
        if name in files.entries and said.get(key) != value:
            of = "format version" if key == "bitnet_jit" else key
            raise files.error(name, f"{of} {value!r} in the file's metadata", f"{said.get(key)!r}")
    files.require(name, packed_shape, ("U8",))
    found = stored_shapes(said.get("shapes", "{}")).get(name)
    if found != shape:
        raise files.error(name, f"the shape {shape} in the file's metadata", f"{found}")


@lru_cache(maxsize=8)
def stored_shapes(shapes: str) -> dict[str, Any]:
    """Return what a file's metadata says of (N, K) of each weight; nothing where it makes no sense."""
    try:
        found = parse_json(shapes)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def to_i2(source: torch.Tensor, out: torch.Tensor, in_features: int, packing: str) -> None:
    """Fill `out`, canonical i2 (N, ceil(K / 4)), from a canonical weight of ours; what is no code becomes the code 3.

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
    """uint8 (N, C) of five codes a byte -> uint8 (N, ceil(C / 4) * 5) of four: four bytes become five."""
    rows, columns = source.shape
    words = torch.zeros(rows, -(-columns // 4), dtype=torch.int64, device="cpu")
    for place in range(4):
        part = T5_IN_I2[source[:, place::4].int()]
        words[:, : part.shape[1]] |= part << 10 * place
    return words.view(torch.uint8).view(rows, -1, 8)[:, :, :5].reshape(rows, -1)


def t5_in_i2() -> torch.Tensor:
    """Of every byte of five codes the ten bits of the same codes, int64 (256,); bytes above 242 give codes 3."""
    every_byte = torch.arange(256, device="cpu")
    codes = torch.stack(FORMATS["t5"].digits(every_byte)).where(every_byte < 3**5, 3)
    shifts = 2 * torch.arange(5, device="cpu")[:, None]
    return (codes << shifts).sum(0)


T5_IN_I2 = t5_in_i2()
