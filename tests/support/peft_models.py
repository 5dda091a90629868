"""Small models with packed layers and adapters of peft on them."""

import copy
import warnings

import pytest
import torch
from torch import nn

pytest.importorskip("transformers", reason="the extra `transformers` is not installed")
with warnings.catch_warnings():
    # importing peft and transformers warns that they use deprecated parts of torch
    warnings.simplefilter("ignore", DeprecationWarning)
    peft = pytest.importorskip("peft", reason="peft is not installed (pip install peft)")
    from transformers import LlamaConfig as LlamaConfig
    from transformers import LlamaForCausalLM as LlamaForCausalLM
    from transformers import LlamaForSequenceClassification as LlamaForSequenceClassification

from bitnet_jit import PackedBitLinear
from bitnet_jit.integrations.peft import register
from bitnet_jit.nn.lora import add_lora, lora_layers

IN, HIDDEN, OUT, RANK = 20, 32, 6, 4
IDS = torch.arange(24).reshape(2, 12)


class Mlp(nn.Module):
    """Two packed layers, of different formats and scales."""

    def __init__(self):
        super().__init__()
        self.up = packed(IN, HIDDEN, torch.rand(HIDDEN) + 0.1, "t5")
        self.down = packed(HIDDEN, OUT, torch.tensor(0.3), "i2")

    def forward(self, x):
        return self.down(torch.relu(self.up(x)))


def packed(in_features, out_features, w_scale, format):
    """Draw a packed layer."""
    w_q = torch.randint(-1, 2, (out_features, in_features), dtype=torch.int8)
    return PackedBitLinear.from_codes(w_q, w_scale, torch.randn(out_features), format=format)


def config(**options):
    """Make a registered config for the two layers of an Mlp, or as the options say."""
    options = {"r": RANK, "lora_alpha": 8, "target_modules": ["up", "down"], **options}
    return register(peft.LoraConfig(**options))


def adapted(base=None, **options):
    """Make a model with trained-looking adapters."""
    model = peft.get_peft_model(Mlp() if base is None else base, config(**options))
    disturb(model)
    return model


def disturb(model):
    """Draw the parameters that are trained anew."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.3)


def with_our_layers(model, base):
    """Put the same factors into our own layers."""
    twin = add_lora(copy.deepcopy(base), r=RANK, alpha=8.0)
    for name, layer in lora_layers(twin).items():
        theirs = model.base_model.model.get_submodule(name)
        layer.lora_A.load_state_dict(theirs.lora_A["default"].state_dict())
        layer.lora_B.load_state_dict(theirs.lora_B["default"].state_dict())
    return twin
