"""Both ends of a step in plain torch, against the reference."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from logits_draws import logits_draws

import bitnet_jit.ops  # noqa: F401
from bitnet_jit import reference
from bitnet_jit.kernels.torch.tokens import bind_embedding, bind_packed_embedding
from bitnet_jit.packing import FORMATS
from bitnet_jit.problem import SCALES, Problem, scale_shape
from bitnet_jit.quant import dequantize_weight

GREEDY = torch.ops.bitnet_jit.greedy


@given(logits=logits_draws(), padded=st.integers(0, 3), with_positions=st.booleans())
def test_largest_logits(logits, padded, with_positions):
    tokens = torch.full((len(logits),), 77)
    before = torch.arange(len(logits), dtype=torch.int32) - padded
    positions = before.clone() if with_positions else None
    largest, code = GREEDY(torch.from_numpy(logits), tokens, positions)
    expected, expected_largest, expected_code = reference.greedy(logits)
    assert tokens.tolist() == expected.tolist()
    assert code.tolist() == expected_code.tolist()
    assert np.array_equal(largest.numpy().view(np.int32), expected_largest.view(np.int32))
    if positions is not None:
        assert positions.tolist() == torch.where(before < 0, before, before + 1).tolist()


@given(
    ids=st.lists(st.integers(-2, 9) | st.sampled_from([-(2**63), 2**63 - 1]), max_size=9),
    is_int8=st.booleans(),
    dtype=st.sampled_from(["float32", "bfloat16"]),
)
def test_rows_of_ids(ids, is_int8, dtype):
    generator = torch.Generator().manual_seed(len(ids))
    table, scale = torch.randn(8, 5, generator=generator), None
    if is_int8:
        table, scale = (table * 40).to(torch.int8), torch.rand(8, generator=generator)
    problem = Problem("embedding", "cpu", 1, 8, 5, x_dtype="int64", y_dtype=dtype, w_dtype=str(table.dtype)[6:])
    y = bind_embedding(problem, None)(torch.tensor(ids, dtype=torch.int64), table, scale)
    expected = reference.embedding(np.array(ids, np.int64), table.numpy(), None if scale is None else scale.numpy())
    assert y.dtype == getattr(torch, dtype)
    assert np.array_equal(y.float(), torch.from_numpy(expected).to(y.dtype).float(), equal_nan=True)


@given(
    ids=st.lists(st.integers(-2, 9) | st.sampled_from([-(2**63), 2**63 - 1]), max_size=9),
    format=st.sampled_from(list(FORMATS)),
    scale=st.sampled_from(SCALES),
    dtype=st.sampled_from(["float32", "bfloat16"]),
)
def test_rows_of_ids_in_packed_tables(ids, format, scale, dtype):
    generator, group_size = torch.Generator().manual_seed(len(ids)), 3 if scale == "group" else 0
    w_q = torch.randint(-1, 2, (8, 7), generator=generator, dtype=torch.int8)
    w_scale = torch.rand(scale_shape(scale, 8, 7, group_size), generator=generator)
    problem = Problem(
        "packed_embedding", "cpu", 1, 8, 7, format, x_dtype="int64", y_dtype=dtype, scale=scale, group_size=group_size
    )
    y = bind_packed_embedding(problem, None)(torch.tensor(ids, dtype=torch.int64), FORMATS[format].pack(w_q), w_scale)
    expected = reference.embedding(np.array(ids, np.int64), dequantize_weight(w_q, w_scale, group_size).numpy())
    assert y.dtype == getattr(torch, dtype)
    assert np.array_equal(y.float(), torch.from_numpy(expected).to(y.dtype).float(), equal_nan=True)
