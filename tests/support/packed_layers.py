"""Small packed layers with random weights, whose widths divide by no step of a kernel."""

import torch

from bitnet_jit import PackedBitLinear

IN, OUT, GROUP = 70, 37, 32
KINDS = ("tensor", "row", "group")


def codes(out_features=OUT, in_features=IN):
    return torch.randint(-1, 2, (out_features, in_features), dtype=torch.int8)


def scale(kind):
    return torch.rand({"tensor": (), "row": (OUT,), "group": (OUT, 3)}[kind]) + 0.1


def make(kind="tensor", bias=True, **options):
    """Return a layer with random weights, and its codes and scale."""
    w_q, w_scale = codes(), scale(kind)
    options |= {"group_size": GROUP} if kind == "group" else {}
    return PackedBitLinear.from_codes(w_q, w_scale, torch.randn(OUT) if bias else None, **options), w_q, w_scale
