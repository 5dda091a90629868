"""Keys `prism.hadamard.*` of a GGUF file: which of its weights were folded with a Hadamard transform, and how.

| key                         | holds                                                                              |
|-----------------------------|------------------------------------------------------------------------------------|
| version                     | 1; or 2, where the folded embedding is the head, too: then tied_output is true     |
| block_size                  | inputs that one transform mixes, a power of two                                    |
| transform, axis             | the words TRANSFORM and AXIS                                                       |
| sign_mode                   | "identity", or "explicit" with the next two keys                                   |
| sign_widths, sign_values    | numbers of inputs, and their vectors of 1 and -1 one behind the other              |
| weight_names                | the folded weights, whose inputs are to be rotated                                 |
| inverse_weight_names        | the embedding, where its rows are to be rotated back; optional                     |
| gdn_v_grouped               | the order of the inputs of ssm_out; optional                                       |

A model that runs without the rotations writes fluent nonsense, so a key or value that is not in this table is refused.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from bitnet_jit.checkpoints.formats.gguf.keys import Keys
from bitnet_jit.checkpoints.formats.gguf.names import EMBEDDING, HEAD
from bitnet_jit.errors import CheckpointError, InvalidInput
from bitnet_jit.problem import MAX_BLOCK, MAX_IN_FEATURES
from bitnet_jit.quant.rotation import SignedBlocks

PREFIX = "prism.hadamard."
TRANSFORM, AXIS = "normalized-sylvester-walsh-hadamard", "input-last-dimension"
NAMES = {
    *("version", "block_size", "transform", "axis", "sign_mode", "weight_names", "sign_widths", "sign_values"),
    *("inverse_weight_names", "gdn_v_grouped"),
}
TIED = "tied_output"  # of version 2 alone
WITH_GDN = ("qwen35", "qwen35moe", "qwen3next")
ARCHITECTURES = ("llama", "qwen3", "qwen3moe", *WITH_GDN)
FOLDABLE = re.compile(
    r"output\.weight|"
    r"blk\.\d+\.(attn_(q|k|v|qkv|gate|output)|ffn_(gate|up|down)(_exps|_shexp)?|ssm_out)\.weight"
)
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Hadamard:
    """The folded weights of a file.

    Attributes:
        block: inputs that one transform mixes.
        rotations: of each folded weight by its name; those of one width are the same object.
        gdn_v_grouped: whether the inputs of ssm_out stand in the order of Hugging Face, while the file's other value
            heads are tiled.
    """

    block: int
    rotations: Mapping[str, SignedBlocks]
    gdn_v_grouped: bool = False


def read_hadamard(keys: Keys, shapes: Shapes) -> Hadamard | None:
    """Return what the keys say of a file's tensors, None where there are no such keys.

    Raises:
        CheckpointError: a key is unknown, missing or wrong, or does not go with the tensors; it names the key.
    """
    given = {name.removeprefix(PREFIX) for name in keys.values if name.startswith(PREFIX)}
    if not given:
        return None
    version = keys.integer(f"{PREFIX}version", low=1, high=2)
    if unknown := sorted(given - NAMES - ({TIED} if version == 2 else set())):
        raise keys.refuse(PREFIX + unknown[0], f"no such key in version {version}")
    keys.word(f"{PREFIX}transform", (TRANSFORM,))
    keys.word(f"{PREFIX}axis", (AXIS,))
    architecture = keys.word("general.architecture", ARCHITECTURES)
    block = keys.integer(f"{PREFIX}block_size", high=MAX_BLOCK)
    if block.bit_count() != 1:
        raise keys.refuse(f"{PREFIX}block_size", "a power of two")
    grouped = keys.flag(f"{PREFIX}gdn_v_grouped", False)
    if grouped and architecture not in WITH_GDN:
        raise keys.refuse(f"{PREFIX}gdn_v_grouped", f"false in {architecture}, which has no ssm_out")
    by_width = read_rotations(keys, block)
    rotations = {
        name: rotation_for(keys, key, name, shapes[name], block, by_width)
        for key, name in folded_names(keys, shapes, version)
    }
    return Hadamard(block, rotations, grouped)


def folded_names(keys: Keys, shapes: Shapes, version: int) -> Iterator[tuple[str, str]]:
    """Yield the key and the name of every folded weight, which must be one that can be folded, and in the file."""
    key, inverse_key = f"{PREFIX}weight_names", f"{PREFIX}inverse_weight_names"
    names, inverse = keys.strings(key), keys.strings(inverse_key) if keys.has(inverse_key) else []
    tied = HEAD not in shapes
    if not names or len(set(names)) < len(names):
        raise keys.refuse(key, "names of weights, each once")
    for name in names:
        also = version == 2 and name == EMBEDDING
        if name not in shapes or not (also or FOLDABLE.fullmatch(name)):
            raise CheckpointError(f"{keys.where}: {key}: expected weights of the file that can be folded, found {name}")
        yield key, name
    if inverse not in ([], [EMBEDDING]) or (inverse and EMBEDDING not in shapes):
        raise keys.refuse(inverse_key, f"{EMBEDDING} alone, or none")
    if version == 2 and not (keys.flag(PREFIX + TIED) and tied and inverse):
        raise keys.refuse(PREFIX + TIED, f"true, no {HEAD}, and {EMBEDDING} in inverse_weight_names in version 2")
    if version == 1 and tied and inverse:
        raise keys.refuse(f"{PREFIX}version", f"2, as the folded {EMBEDDING} is the head, too")
    yield from ((inverse_key, name) for name in inverse)


def rotation_for(
    keys: Keys, key: str, name: str, shape: tuple[int, ...], block: int, by_width: dict[int, SignedBlocks] | None
) -> SignedBlocks:
    """Return the rotation of a folded weight, one per width."""
    width = shape[-1] if shape else 0
    if not 0 < width <= MAX_IN_FEATURES or width % block:
        raise CheckpointError(f"{keys.where}: {key}: expected inputs in whole blocks of {block}, {name} has {width}")
    if by_width is None:
        return SignedBlocks(torch.ones(width), block)
    if width not in by_width:
        raise CheckpointError(
            f"{keys.where}: {PREFIX}sign_widths: expected {width}, the inputs of {name}, found {sorted(by_width)}"
        )
    return by_width[width]


def read_rotations(keys: Keys, block: int) -> dict[int, SignedBlocks] | None:
    """Return rotations by numbers of inputs, None where all signs are 1."""
    explicit = keys.word(f"{PREFIX}sign_mode", ("identity", "explicit")) == "explicit"
    widths_key, values_key = f"{PREFIX}sign_widths", f"{PREFIX}sign_values"
    if not explicit:
        for key in (widths_key, values_key):
            if keys.has(key):
                raise keys.refuse(key, "no such key where sign_mode is 'identity'")
        return None
    widths, values = keys.whole_numbers(widths_key), keys.whole_numbers(values_key)
    distinct = {int(width) for width in widths}
    if not len(widths) or len(distinct) < len(widths) or any(width < 1 or width % block for width in distinct):
        raise keys.refuse(widths_key, f"numbers of inputs in whole blocks of {block}, each once")
    if len(values) != sum(distinct):
        raise keys.refuse(values_key, f"{sum(distinct)} signs, for inputs of {sorted(distinct)}")
    if (abs(values.astype("int64")) != 1).any():
        raise keys.refuse(values_key, "numbers that are 1 or -1")
    signs = torch.from_numpy(values.astype("float32")).split([int(width) for width in widths])
    return {len(part): SignedBlocks(part.clone(), block) for part in signs}


def hadamard_keys(rotations: Mapping[str, SignedBlocks], tied: bool, gdn_v_grouped: bool) -> dict[str, Any]:
    """Return the keys of a model's folded weights, by their names in the file; none where there are none.

    Args:
        rotations: of the inputs of each.
        tied: whether the embedding is the head, too.
        gdn_v_grouped: as in `Hadamard`.

    Raises:
        InvalidInput: GGUF has one size of blocks, and one vector of signs per number of inputs; or the embedding alone
            is folded.
    """
    if not rotations:
        return {}
    by_width: dict[int, SignedBlocks] = {}
    for name, rotation in rotations.items():
        first = by_width.setdefault(rotation.in_features, rotation)
        if not rotation.same_as(first) or rotation.block != next(iter(by_width.values())).block:
            raise InvalidInput(f"format: GGUF has one rotation per number of inputs, {name} has another: {rotation}")
    if not (names := [name for name in rotations if name != EMBEDDING]):
        raise InvalidInput(f"format: GGUF has no model whose {EMBEDDING} alone is rotated")
    folded_head = tied and EMBEDDING in rotations
    said: dict[str, Any] = {
        "version": 2 if folded_head else 1,
        "block_size": next(iter(by_width.values())).block,
        "transform": TRANSFORM,
        "axis": AXIS,
        "sign_mode": "explicit",
        "weight_names": names,
        "sign_widths": list(by_width),
        "sign_values": [int(sign) for rotation in by_width.values() for sign in rotation.signs.tolist()],
    }
    said |= {"inverse_weight_names": [EMBEDDING]} if EMBEDDING in rotations else {}
    said |= {TIED: True} if folded_head else {}
    said |= {"gdn_v_grouped": True} if gdn_v_grouped else {}
    return {PREFIX + key: given for key, given in said.items()}
