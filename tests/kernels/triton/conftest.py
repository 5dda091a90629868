"""Outputs and scratch memory of kernels are full of wrong numbers here before they run.

The profile `interpreter` is for test_interpreter.py: 4 examples per kernel, since one takes a tenth of a second there.
"""

import pytest
import torch
from hypothesis import settings

settings.register_profile("interpreter", settings.get_profile("quick"), max_examples=4)

POISON = {torch.uint8: 99, torch.int8: 99, torch.int32: 77777777, torch.int64: 77777777777}


@pytest.fixture(autouse=True, scope="module")
def poison():
    tensors = pytest.importorskip("bitnet_jit.kernels.triton.tensors", exc_type=ImportError)
    empty_strided = tensors.empty_strided

    def poisoned(shape, strides, dtype):
        return empty_strided(shape, strides, dtype).fill_(POISON.get(dtype, torch.nan))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tensors, "empty_strided", poisoned)
        yield
