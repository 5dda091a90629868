"""Small packed layers with LoRA adapters beside them."""

import torch
from torch import nn

from bitnet_jit import LoraLinear, PackedBitLinear

IN, OUT, ROWS, RANK, GROUP = 70, 37, 5, 3, 32
SCALES = {"tensor": (), "row": (OUT,), "group": (OUT, 3)}


def packed(in_features=IN, out_features=OUT, kind="tensor", activation="a8", format="i2"):
    w_q = torch.randint(-1, 2, (out_features, in_features), dtype=torch.int8)
    w_scale = torch.rand(SCALES[kind]) / in_features**0.5 + 0.1
    group_size = GROUP if kind == "group" else 0
    return PackedBitLinear.from_codes(w_q, w_scale, torch.randn(out_features), group_size, activation, format)


def adapted(r=RANK, **options):
    """Return a layer whose adapter has been trained already: B is not zero."""
    layer = LoraLinear(packed(**options), r, alpha=6.0)
    nn.init.normal_(layer.lora_B.weight)
    return layer


def mlp(**options):
    return nn.Sequential(packed(IN, 48, **options), nn.ReLU(), packed(48, 10, **options))


def trainable(model):
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]
