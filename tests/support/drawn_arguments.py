"""Arguments of every op, right and wrong, made from its record alone: an op that is new is covered at once."""

from collections import Counter
from math import prod

import torch

from bitnet_jit.kernels import registry
from bitnet_jit.ops.arguments import Dtype, Epsilon, LayoutName, PowerOfTwo, Tensor, Whole, Word
from bitnet_jit.ops.op import OPS
from bitnet_jit.ops.shapes import BlockDims, Dims, PackedShape, ScaleShape, known_size
from bitnet_jit.problem import SCALES as SCALES

SPECS = {name: op.spec for name, op in OPS.items()}

SIZES = {"K": 70, "N": 37}  # none of them a multiple of anything
PAGED_SIZES = {"P": 5, "KV": 1, "D": 10, "C": 71, "R": 6, "M": 8}  # K is five heads of queries, and keys and values
FAR = 63  # a position in a page beside the next one
DELTA_SIZES = {"H": 5, "V": 10, "G": 10, "J": 1, "S": 9}  # with the D above K has one head of keys
LIMITS = {"K": 2**18, "N": 2**62}
LEADING = (2, 3)
GROUP = 32
BLOCK = 2  # the largest power of two that divides K
DTYPES = (
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float64,
    torch.float8_e4m3fn,
    torch.int8,
    torch.uint8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.bool,
    torch.complex64,
)
EACH_TENSOR = [(op, tensor.name) for op, spec in SPECS.items() for tensor in spec.tensors]
EACH_OPTION = [
    (op, argument.name) for op, spec in SPECS.items() for argument in spec.arguments if not isinstance(argument, Tensor)
]


def has_groups(op):
    """Whether an op's weight may have scales of groups."""
    return any(argument.name == "group_size" for argument in SPECS[op].arguments)


def argument_of(op, name):
    """The record of an argument."""
    return next(argument for argument in SPECS[op].arguments if argument.name == name)


def right(op, scale="tensor", leading=LEADING):
    """Arguments that fit, by name."""
    scale = scale if has_groups(op) else "tensor"
    generator = torch.Generator().manual_seed(0)
    values = {
        argument.name: make_tensor(argument, scale, leading, generator)
        if isinstance(argument, Tensor)
        else make_option(argument, scale)
        for argument in SPECS[op].arguments
    }
    if op == "delta_net":  # all sequences begin, so that a call gives the same again
        values["positions"].fmod_(FAR)
    return values


def make_tensor(argument, scale, leading, generator):
    """A tensor that fits its record."""
    if isinstance(argument.shape, PackedShape):
        layout = registry.preferred_layout("i2", "cpu")
        codes = torch.randint(-1, 2, (SIZES["N"], SIZES["K"]), generator=generator, dtype=torch.int8)
        return layout.from_canonical(layout.format.pack(codes), SIZES["N"], SIZES["K"])
    shape = shape_of(argument, scale, leading)
    if torch.int8 in argument.dtypes:
        return torch.randint(-128, 128, shape, generator=generator, dtype=torch.int8)
    if argument.name in ("ids", "next_tokens", "next_positions"):
        return torch.randint(0, SIZES["N"], shape, generator=generator).to(argument.dtypes[0])
    if argument.dtypes == (torch.int32,):
        return integers_of(argument.name, leading)
    assert torch.float32 in argument.dtypes
    return torch.rand(shape, generator=generator) + 0.1


def integers_of(name, leading):
    """Where tokens lie: of a sequence, of one that has begun, of four that rest, and one token that is padding."""
    tokens = prod(leading)
    first, second = tokens // 3, max(tokens - 1 - tokens // 3, 0)
    end = first + second
    values = {
        "positions": torch.tensor([*range(first), *range(FAR, FAR + second), -1][:tokens]).reshape(leading),
        "starts": torch.tensor((0, first, *[end] * (PAGED_SIZES["R"] - 1))),
        "slots": torch.tensor((7, 2, 0, 8, 4, 5)),
        "tables": torch.tensor([[2, *[-1] * 7], [1, 0, *[-1] * 6], *[[-1] * 8] * (PAGED_SIZES["R"] - 2)]),
    }
    return values[name].int()


def shape_of(argument, scale, leading):
    """The shape of a tensor but the packed weight."""
    n, k = SIZES["N"], SIZES["K"]
    if isinstance(argument.shape, ScaleShape):
        return {"tensor": (), "row": (n,), "group": (n, -(-k // GROUP))}[scale]
    assert isinstance(argument.shape, Dims)
    return (*(leading if argument.shape.has_rows else ()), *map(size_of, argument.shape.names))


def size_of(name):
    """The size of a dimension."""
    return known_size(name, SIZES | PAGED_SIZES | DELTA_SIZES)


def make_option(argument, scale):
    """An option that fits its record."""
    if isinstance(argument, Whole):
        group = GROUP if argument.name == "group_size" and scale == "group" else 0
        return SIZES.get(argument.size, max(argument.minimum, group))
    kinds = {
        Word: lambda: argument.words[0],
        LayoutName: lambda: registry.preferred_layout("i2", "cpu").name,
        Dtype: lambda: torch.float32,
        Epsilon: lambda: 1e-5,
        PowerOfTwo: lambda: BLOCK,
    }
    return kinds[type(argument)]()


def may_have_shape(op, name, shape, values):
    """Whether a tensor may have another shape where all other arguments stay as they are."""
    argument, shape = argument_of(op, name), tuple(shape)
    if shape == tuple(values[name].shape):
        return True
    if isinstance(argument.shape, ScaleShape):
        return not values.get("group_size") and shape in ((), (SIZES["N"],))
    if isinstance(argument.shape, PackedShape):
        return False
    if op == "paged_attention":
        return may_have_paged_shape(name, shape)
    if op == "delta_net":
        return name == "states" and may_have_states(shape)
    names, first = argument.shape.names, len(shape) - len(argument.shape.names)
    told = Counter(size for other in SPECS[op].arguments for size in told_by(other))
    if first < 0 or first and not argument.shape.has_rows:
        return False
    if argument.shape.has_rows and told[...] > 1 and shape[:first] != tuple(values[name].shape)[: len(LEADING)]:
        return False
    if isinstance(argument.shape, BlockDims) and shape[-1] % BLOCK:
        return False
    return all(
        1 <= size <= LIMITS[size_name] if told[size_name] == 1 else size == SIZES[size_name]
        for size, size_name in zip(shape[first:], names, strict=True)
    )


def may_have_paged_shape(name, shape):
    """Whether an argument of `paged_attention` may have another shape; both tensors of pages have one number."""
    leading, heads, d = shape[:-1], shape[-1:], PAGED_SIZES["D"]
    return {
        "qkv": leading == LEADING and heads[0] % d == 0 and 3 * d <= heads[0] <= LIMITS["K"] if heads else False,
        "rotary": len(shape) == 2 and shape[0] >= 1 and shape[1] == d,
        "tables": len(shape) == 2 and shape[0] == PAGED_SIZES["R"] and shape[1] >= 1,
    }.get(name, False)


def may_have_states(shape):
    """Whether states may have another shape: with keys so narrow that K has a divisor of the heads of them."""
    slots, heads, dv = DELTA_SIZES["S"], DELTA_SIZES["H"], DELTA_SIZES["V"]
    if len(shape) != 4 or (*shape[:2], shape[3]) != (slots, heads, dv) or shape[2] < 1:
        return False
    key_heads, rest = divmod(SIZES["K"] - heads * dv, 2 * shape[2])
    return rest == 0 and key_heads > 0 and heads % key_heads == 0


def told_by(argument):
    """The sizes that an argument tells: a packed weight and its scales follow from options."""
    if isinstance(argument, Tensor):
        dims = argument.shape
        return ([...] if dims.has_rows else []) + [*dims.names] if isinstance(dims, Dims) else []
    return [argument.size] if isinstance(argument, Whole) and argument.size else []


def wrong_dtypes(op, name):
    """The dtypes that a tensor must not have where all other arguments stay as they are."""
    argument = argument_of(op, name)
    bound = argument.like or any(other.like == name for other in SPECS[op].tensors)
    given = torch.int8 if torch.int8 in argument.dtypes else argument.dtypes[0]  # as make_tensor draws it
    return [dtype for dtype in DTYPES if dtype not in ((given,) if bound else argument.dtypes)]


def wrong_layouts(value):
    """The same numbers, laid out in memory otherwise than by strides."""
    if not value.dim():
        return []
    result = [value.to_sparse()] + ([value.to_sparse_csr()] if value.dim() == 2 else [])
    if value.dtype == torch.float32 and value.dim() < 6:
        result.append(value.to_mkldnn())
    return result


def wrong_options(op, name):
    """What an option must not be where all other arguments stay as they are."""
    argument = argument_of(op, name)
    if isinstance(argument, Whole):
        numbers = [argument.minimum - 1, -(2**62), 2**63]
        if argument.size:  # a packed weight alone tells it up to its padding
            told = any(argument.size in told_by(other) for other in SPECS[op].tensors)
            numbers += [SIZES[argument.size] + step for step in ((-1, 1, 64) if told else (64,))] + [2**62]
        return [*numbers, "3", 1.5, None, [1]]
    has_weight = any(isinstance(other.shape, PackedShape) for other in SPECS[op].tensors)
    kinds = {
        Word: ["", "a4", 3, None, ["a8"]],
        LayoutName: ["", "i3", 3, None, ["i2"], *(["t5"] if has_weight else [])],
        Dtype: [torch.int8, torch.float64, torch.complex64, "float32", None, [1]],
        Epsilon: [-1.0, float("nan"), float("inf"), "1", None, [1.0]],
        PowerOfTwo: [0, -2, 3, 4, 2**14, 2**62, "2", 1.5, None, [2]],  # 4 divides no K here
    }
    return kinds[type(argument)]
