"""What `torch.empty` gives is full of wrong numbers here."""

import pytest
import torch

POISON = {torch.uint8: 99, torch.int8: 99, torch.int32: 77777777}


@pytest.fixture(autouse=True, scope="module")
def poison():
    empty = torch.empty

    def poisoned(*shape, dtype=torch.float32, **options):
        return empty(*shape, dtype=dtype, **options).fill_(POISON.get(dtype, torch.nan))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "empty", poisoned)
        yield
