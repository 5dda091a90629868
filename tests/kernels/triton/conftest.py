"""What `new_empty` gives is full of wrong numbers here."""

import pytest
import torch

POISON = {torch.uint8: 99, torch.int8: 99, torch.int32: 77777777}


@pytest.fixture(autouse=True, scope="module")
def poison():
    new_empty = torch.Tensor.new_empty

    def poisoned(self, *shape, dtype=None, **options):
        fresh = new_empty(self, *shape, dtype=dtype, **options)
        return fresh.fill_(POISON.get(fresh.dtype, torch.nan))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "new_empty", poisoned)
        yield
