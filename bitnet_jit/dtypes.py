"""Dtypes of activations, and their names in torch's and NumPy's words."""

import torch

FLOATS = (torch.float32, torch.bfloat16, torch.float16)


def dtype_name(dtype: torch.dtype) -> str:
    """Return torch's name of a dtype without the prefix.

    >>> dtype_name(torch.bfloat16)
    'bfloat16'
    """
    return str(dtype).removeprefix("torch.")
