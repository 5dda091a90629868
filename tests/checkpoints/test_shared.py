"""Tensors that share memory, and tied weights in config.json."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitnet_jit.checkpoints.formats.hf_names import EMBEDDING, HEAD
from bitnet_jit.checkpoints.shared import TIED, one_copy_each


def views(kind):
    """Return two tensors of one storage."""
    base = torch.arange(24.0).view(6, 4)
    return {"itself": (base, base), "part": (base, base[1:]), "transposed": (base, base.T), "halves": base.chunk(2)}[
        kind
    ]


@pytest.mark.parametrize("kind", ["itself", "part", "transposed", "halves"])
@given(order=st.permutations(["a", "b", "c"]))
def test_nothing_shares_memory_afterwards(kind, order):
    first, second = views(kind)
    tensors = {"a": first, "b": second, "c": torch.ones(3)}
    copies, _ = one_copy_each({name: tensors[name] for name in order}, {})
    assert list(copies) == order
    assert len({tensor.untyped_storage().data_ptr() for tensor in copies.values()}) == len(copies)
    assert all(torch.equal(tensors[name], tensor) for name, tensor in copies.items())


@pytest.mark.parametrize("says", [True, False, None])
@pytest.mark.parametrize("head", ["same", "equal", "other", "other dtype", "other shape"])
def test_the_head_is_written_unless_a_reader_ties_it(says, head):
    w = torch.arange(6.0).view(3, 2)
    heads = {"same": w, "equal": w.clone(), "other": w + 1, "other dtype": w.bfloat16(), "other shape": w[:2].clone()}
    copies, config = one_copy_each({EMBEDDING: w, HEAD: heads[head]}, {TIED: says, "x": 1})
    alike = head in ("same", "equal")
    assert (HEAD in copies) == (not says or not alike)
    assert config == {TIED: bool(alike) if says else says, "x": 1}


def test_other_tied_tensors_are_left_out_together_or_not_at_all():
    w, v = torch.ones(2, 2), torch.zeros(2)
    tensors = {"shared": w, "encoder": w, "decoder": w, "bias": v, "head_bias": v + 1}
    copies, config = one_copy_each(
        tensors, {TIED: True}, {"encoder": "shared", "decoder": "shared", "absent": "shared"}
    )
    assert set(copies) == {"shared", "bias", "head_bias"}
    assert config == {TIED: True}
    copies, config = one_copy_each(tensors, {TIED: True}, {"encoder": "shared", "head_bias": "bias"})
    assert set(copies) == set(tensors)
    assert config == {TIED: False}
