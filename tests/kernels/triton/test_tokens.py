"""Rows of token ids, and the tokens with the largest logits, by the contract: every bit, in every config."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from logits_draws import logits_draws
from triton_calls import DEVICE, ON_GPU, max_examples, needs_device

from bitnet_jit import reference
from bitnet_jit.kernels.triton.head import greedy
from bitnet_jit.kernels.triton.layout import I2_PLANES, T5_PLANES
from bitnet_jit.kernels.triton.rowwise import embedding, packed_embedding
from bitnet_jit.kernels.triton.tensors import bind_call
from bitnet_jit.ops.embedding import EMBEDDING
from bitnet_jit.ops.greedy import GREEDY
from bitnet_jit.ops.packed_embedding import PACKED_EMBEDDING
from bitnet_jit.quant import dequantize_weight

pytestmark = needs_device
DTYPES = (torch.float32, torch.float16, *([torch.bfloat16] if ON_GPU else []))  # the interpreter truncates to bfloat16


def call(op, kernel, *arguments, config=None):
    """Call a kernel as its op does."""
    problem = op.spec.problem(op.spec.check(arguments))
    operands = op.spec.operands_of(problem, arguments[1 if op is GREEDY else 0].shape)
    bound = kernel.bind(problem, config or kernel.configs(problem)[0])
    return bind_call(bound, operands, DEVICE)(*arguments[: len(operands.arguments)])


@max_examples
@given(
    rows=st.sampled_from([1, 0, 3, 17]),
    size=st.sampled_from([1, 3, 131]),
    features=st.sampled_from([1, 17, 256, 4099]),
    dtypes=st.tuples(*[st.sampled_from(DTYPES)] * 2),
    ids_dtype=st.sampled_from([torch.int64, torch.int32]),
    is_int8=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_rows_of_ids(rows, size, features, dtypes, ids_dtype, is_int8, seed):
    generator = torch.Generator().manual_seed(seed)
    far = torch.iinfo(ids_dtype)
    ids = torch.randint(size, (rows,), generator=generator, dtype=ids_dtype)
    ids[1:] = torch.where(torch.rand(len(ids[1:])) < 0.2, torch.tensor(far.min if seed % 2 else far.max), ids[1:])
    scale = torch.rand(size, generator=generator) if is_int8 else None
    table = torch.randn(size, features, generator=generator).to(dtypes[0])
    if is_int8:
        table = torch.randint(-128, 128, (size, features), generator=generator, dtype=torch.int8)
    on = [None if a is None else a.to(DEVICE) for a in (ids, table, scale)]
    y = call(EMBEDDING, embedding, *on, dtypes[1])
    expected = reference.embedding(ids.numpy(), table.float().numpy(), None if scale is None else scale.numpy())
    assert (y.dtype, y.shape) == (dtypes[1], (rows, features))
    assert np.array_equal(y.float().cpu(), torch.from_numpy(expected).to(dtypes[1]).float(), equal_nan=True)


@max_examples
@given(
    rows=st.sampled_from([1, 0, 3, 17]),
    size=st.sampled_from([1, 3, 131]),
    features=st.sampled_from([1, 17, 256, 321, 4099]),
    dtype=st.sampled_from(DTYPES),
    ids_dtype=st.sampled_from([torch.int64, torch.int32]),
    layout=st.sampled_from([I2_PLANES, T5_PLANES]),
    group_size=st.sampled_from([None, 0, 1, 48, 128]),
    seed=st.integers(0, 2**32 - 1),
)
def test_rows_of_ids_in_packed_tables(rows, size, features, dtype, ids_dtype, layout, group_size, seed):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(-1, size + 1, (rows,), generator=generator, dtype=ids_dtype)
    ids[:1].clamp_(0, size - 1)
    w_q = torch.randint(-1, 2, (size, features), generator=generator, dtype=torch.int8)
    shape = () if group_size is None else (size, -(-features // group_size)) if group_size else (size,)
    w_scale = torch.rand(shape, generator=generator)
    w_packed = layout.from_canonical(layout.format.pack(w_q), size, features)
    on = [tensor.to(DEVICE) for tensor in (ids, w_packed, w_scale)]
    y = call(PACKED_EMBEDDING, packed_embedding, *on, features, size, layout.name, group_size or 0, dtype)
    expected = reference.embedding(ids.numpy(), dequantize_weight(w_q, w_scale, group_size or 0).numpy())
    assert (y.dtype, y.shape) == (dtype, (rows, features))
    assert np.array_equal(y.float().cpu(), torch.from_numpy(expected).to(dtype).float(), equal_nan=True)


def check_greedy(logits, with_positions, config):
    """Compare with the reference; the bits of the largest logits, too."""
    rows = len(logits)
    tokens = torch.full((rows,), 77, dtype=torch.int64, device=DEVICE)
    before = torch.arange(-1, rows - 1, dtype=torch.int32)
    positions = before.to(DEVICE, copy=True) if with_positions else None
    largest, code = call(GREEDY, greedy, torch.from_numpy(logits).to(DEVICE), tokens, positions, config=config)
    expected, expected_largest, expected_code = reference.greedy(logits)
    assert tokens.tolist() == expected.tolist()
    assert code.tolist() == expected_code.tolist()
    assert np.array_equal(largest.cpu().numpy().view(np.int32), expected_largest.view(np.int32))
    if positions is not None:
        assert positions.tolist() == torch.where(before < 0, before, before + 1).tolist()


@max_examples
@given(logits=logits_draws(), with_positions=st.booleans(), pick=st.integers(0, 2))
def test_largest_logits(logits, with_positions, pick):
    check_greedy(logits, with_positions, greedy.configs(GREEDY.spec.problem(GREEDY.spec.check(example(logits))))[pick])


def example(logits):
    """Return arguments for such logits."""
    return torch.from_numpy(logits), torch.zeros(len(logits), dtype=torch.int64), None


@pytest.mark.parametrize("place", [0, 1023, 1024, 128_255])
def test_a_large_vocabulary(place):
    logits = np.random.default_rng(0).standard_normal((2, 128_256), dtype=np.float32)
    logits[0, place] = logits[0, 128_255] = 9
    logits[1, [100_000, place]] = np.nan
    check_greedy(logits, True, None)


def test_a_row_does_not_depend_on_the_rows_beside_it():
    logits = np.random.default_rng(1).standard_normal((9, 5003), dtype=np.float32).round(1)
    tokens = torch.zeros(9, dtype=torch.int64, device=DEVICE)
    largest, _ = call(GREEDY, greedy, torch.from_numpy(logits).to(DEVICE), tokens, None)
    for row in range(9):
        alone = torch.zeros(1, dtype=torch.int64, device=DEVICE)
        value, code = call(GREEDY, greedy, torch.from_numpy(logits[row : row + 1]).to(DEVICE), alone, None)
        assert (alone[0], value[0], code[0]) == (tokens[row], largest[row], tokens[row])
