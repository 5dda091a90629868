"""Gate and up as parts of one tensor, side by side in its rows: read where they are, with the same codes as copies."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitnet_jit.ops import norm

CALLS = {
    "relu2": lambda gate, up, weight: norm.relu2_mul_norm_quantize(gate, up, weight, 1e-5),
    "silu": lambda gate, up, weight: norm.silu_mul_norm_quantize(gate, up, weight, 1e-5),
    "silu without a norm": lambda gate, up, weight: norm.silu_mul_norm_quantize(gate, up, None, 0.0),
}
VIEWS = {
    "halves": lambda joint, n: joint[:, : 2 * n].chunk(2, -1),
    "up first": lambda joint, n: (joint[:, n : 2 * n], joint[:, :n]),
    "one twice": lambda joint, n: (joint[:, :n], joint[:, :n]),
    "overlapping": lambda joint, n: (joint[:, :n], joint[:, 1 : n + 1]),
    "every other row": lambda joint, n: joint[::2, : 2 * n].chunk(2, -1),
    "every other column": lambda joint, n: (joint[:, : 2 * n : 2], joint[:, 1 : 2 * n : 2]),
    "one whole": lambda joint, n: (joint[:, :n], joint[:, n : 2 * n].clone()),
    "turned": lambda joint, n: (joint[:, :n].T.contiguous().T, joint[:, n : 2 * n].T.contiguous().T),
    "one row everywhere": lambda joint, n: (
        joint[:1, :n].expand(len(joint), n),
        joint[:1, n : 2 * n].expand(len(joint), n),
    ),
    "negated": lambda joint, n: tuple(torch._neg_view(part) for part in joint[:, : 2 * n].chunk(2, -1)),
    "three dimensions": lambda joint, n: joint[: len(joint) // 2 * 2, : 2 * n].unflatten(0, (2, -1)).chunk(2, -1),
}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("name", CALLS)
@given(
    rows=st.sampled_from([2, 3, 17, 33]),
    features=st.sampled_from([1, 3, 33, 64, 96, 257]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    seed=st.integers(0, 2**32),
)
def test_parts_have_the_codes_of_copies(name, view, rows, features, dtype, seed):
    torch_rng = torch.Generator().manual_seed(seed)
    joint = torch.randn(rows, 2 * features + 5, generator=torch_rng).to(dtype)
    gate, up = VIEWS[view](joint, features)
    weight = torch.randn(features, generator=torch_rng)
    codes = CALLS[name](gate, up, weight)
    expected = CALLS[name](
        gate.clone(memory_format=torch.contiguous_format).resolve_neg(),
        up.clone(memory_format=torch.contiguous_format).resolve_neg(),
        weight,
    )
    for tensor, right in zip(codes, expected, strict=True):
        assert torch.equal(tensor, right)


def test_no_copy_of_parts_is_made():
    """The profiler counts what an op allocates: its codes and scales alone."""
    joint = torch.randn(64, 2 * 4096)
    weight = torch.ones(4096)
    CALLS["relu2"](*joint.chunk(2, -1), weight)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        CALLS["relu2"](*joint.chunk(2, -1), weight)
    allocated = sum(max(0, event.self_cpu_memory_usage) for event in profile.key_averages())
    assert 64 * 4096 <= allocated < 2 * 64 * 4096
