"""Modules that record their calls or fail on purpose, for the tests of tensors through an engine."""

import threading
import time

import torch
from torch import nn

from bitnet_jit import PackedBitLinear

K, N = 24, 10


def packed(in_features=K, out_features=N, seed=0):
    """Return a packed layer with random weights and a bias."""
    generator = torch.Generator().manual_seed(seed)
    w_q = torch.randint(-1, 2, (out_features, in_features), dtype=torch.int8, generator=generator)
    return PackedBitLinear.from_codes(w_q, torch.tensor(0.25), torch.randn(out_features, generator=generator)).eval()


def inputs(leadings, in_features=K, seed=0):
    """Return random tensors (*leading, K)."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*leading, in_features, generator=generator) for leading in leadings]


class Recorded(nn.Module):
    """A module that notes the rows of each call, and fails as it is told.

    Args:
        inner: what computes.
        fits: rows that memory suffices for; None: any.
        seconds: that a call takes beside its work.
        refuse: a number; rows that begin with it are an error.
    """

    def __init__(self, inner=None, fits=None, seconds=0.0, refuse=None):
        super().__init__()
        self.inner = packed() if inner is None else inner
        self.fits, self.seconds, self.refuse = fits, seconds, refuse
        self.calls, self.refused, self.threads = [], 0, set()
        self.eval()

    def forward(self, x):
        self.threads.add(threading.get_ident())
        if self.fits is not None and len(x) > self.fits:
            self.refused += 1
            raise torch.OutOfMemoryError("CUDA out of memory (injected)")
        if self.refuse is not None and bool((x[..., 0] == self.refuse).any()):
            raise RuntimeError(f"a row begins with {self.refuse}")
        if self.seconds:
            time.sleep(self.seconds)
        self.calls.append(len(x))
        return self.inner(x)
