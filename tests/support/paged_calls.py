"""Calls of `paged_attention` for tests: drawn mixes of sequences, and the same tokens by other schedules."""

from dataclasses import dataclass, replace

import torch
from triton_calls import DEVICE

from bitnet_jit.kernels.torch.attention import bind_paged_attention
from bitnet_jit.kernels.triton.attention import paged
from bitnet_jit.kernels.triton.tensors import bind_call
from bitnet_jit.ops.attention import PAGED_ATTENTION
from bitnet_jit.problem import PAGE


@dataclass(frozen=True)
class Heads:
    """The heads of an attention, and the dtypes of its tokens and its cache."""

    heads: int
    kv_heads: int
    head_dim: int
    dtype: torch.dtype = torch.float32
    cache: torch.dtype = torch.float32

    @property
    def width(self) -> int:
        return (self.heads + 2 * self.kv_heads) * self.head_dim


@dataclass
class Sequences:
    """Tokens of several sequences and the pages of all; `lengths` are behind the tokens that are given."""

    heads: Heads
    keys: torch.Tensor
    values: torch.Tensor
    rotary: torch.Tensor
    tables: torch.Tensor
    tokens: list[torch.Tensor]  # of each sequence, (n, width)
    cached: list[int]  # of each sequence: positions before those

    def clone(self):
        return replace(self, keys=self.keys.clone(), values=self.values.clone())


def draw(heads, cached, new, seed=0, spare=1):
    """Draw sequences with so many cached and new tokens each; what nobody may read is NaN, tables end in -1."""
    generator = torch.Generator().manual_seed(seed)
    counts = [-(-(before + n) // PAGE) for before, n in zip(cached, new, strict=True)]
    most, total = max(counts) + spare, sum(counts) + spare
    order = iter(torch.randperm(total, generator=generator).tolist())
    keys = torch.full((total, heads.kv_heads, heads.head_dim, PAGE), torch.nan)
    values = torch.full((total, heads.kv_heads, PAGE, heads.head_dim), torch.nan)
    tables = torch.full((len(new), most), -1, dtype=torch.int32)
    for r, count in enumerate(counts):
        for place in range(count):
            page = tables[r, place] = next(order)
            full = min(max(cached[r] - place * PAGE, 0), PAGE)
            keys[page, :, :, :full] = torch.randn(heads.kv_heads, heads.head_dim, full, generator=generator)
            values[page, :, :full] = torch.randn(heads.kv_heads, full, heads.head_dim, generator=generator)
    half = torch.arange(0, heads.head_dim, 2) / heads.head_dim
    angles = torch.arange(most * PAGE)[:, None] * 100.0**-half
    tokens = [torch.randn(n, heads.width, generator=generator).to(DEVICE, heads.dtype) for n in new]
    return Sequences(
        heads,
        keys.to(DEVICE, heads.cache),
        values.to(DEVICE, heads.cache),
        torch.cat((angles.cos(), angles.sin()), 1).to(DEVICE),
        tables.to(DEVICE),
        tokens,
        list(cached),
    )


def arguments(sequences, parts, padding=0):
    """Return the arguments of a call with tokens begin..end-1 of some sequences: parts are (sequence, begin, end)."""
    tokens = [sequences.tokens[r][begin:end] for r, begin, end in parts]
    tokens.append(torch.ones(padding, sequences.heads.width, device=DEVICE, dtype=sequences.heads.dtype))
    positions = [torch.arange(sequences.cached[r] + begin, sequences.cached[r] + end) for r, begin, end in parts]
    positions.append(torch.full((padding,), -1))
    counts = torch.tensor([0, *(end - begin for _, begin, end in parts)])
    return (
        torch.cat(tokens),
        sequences.keys,
        sequences.values,
        sequences.rotary,
        torch.cat(positions).to(DEVICE, torch.int32),
        counts.cumsum(0).to(DEVICE, torch.int32),
        sequences.tables[[r for r, _, _ in parts]].contiguous(),
        None,
        None,
    )


def problem_of(arguments):
    return PAGED_ATTENTION.spec.problem(PAGED_ATTENTION.spec.check(arguments))


def attend(arguments, config=None):
    """Call the Triton kernel, by its first config."""
    problem = problem_of(arguments)
    operands = PAGED_ATTENTION.spec.operands_of(problem, arguments[0].shape[:-1])
    bound = paged.bind(problem, config or paged.configs(problem)[0])
    return bind_call(bound, operands, arguments[0].device)(*arguments)


def attend_by_torch(arguments):
    """Call the plain kernel."""
    return bind_paged_attention(problem_of(arguments), None)(*arguments)


def whole(sequences):
    """Return the parts of a call with all tokens."""
    return [(r, 0, len(tokens)) for r, tokens in enumerate(sequences.tokens)]
