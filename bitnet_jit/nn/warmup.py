"""`set_quantization_strength`: layers that become ternary gradually (see gradual.py)."""

import torch
from torch import nn

from bitnet_jit.arguments import as_real, show
from bitnet_jit.errors import InvalidInput
from bitnet_jit.nn.bit_linear import BitLinear
from bitnet_jit.nn.gradual import STRENGTH


def set_quantization_strength(model: nn.Module, strength: float) -> None:
    """Set how far the `BitLinear` layers of a model are on their way from plain linear layers to ternary ones.

    Below 1 a layer computes in floating point; at 1, where every layer begins, on integers again. `pack` quantizes
    wholly at any strength. Compiled models compile anew when the strength leaves 1 or reaches it, and not in between.

    Args:
        model: a module that holds `BitLinear` layers, or one itself.
        strength: from 0 (plain linear layers) to 1 (ternary ones).

    Raises:
        InvalidInput: strength is out of range, or the model has no such layer.

    >>> layer, x = BitLinear(8, 4), torch.randn(2, 8)
    >>> set_quantization_strength(layer, 0.0)
    >>> torch.equal(layer(x), nn.functional.linear(x, layer.weight, layer.bias))
    True
    """
    share = as_real(strength)
    if share is None or not 0 <= share <= 1:
        raise InvalidInput(f"strength: expected a number from 0 to 1, got {show(strength)}")
    layers = [module for module in model.modules() if isinstance(module, BitLinear)]
    if not layers:
        raise InvalidInput(f"model: {type(model).__name__} has no BitLinear; make them with bitnet_jit.convert")
    for layer in layers:
        if share == 1:
            layer._buffers.pop(STRENGTH, None)
        elif STRENGTH in layer._buffers:
            layer.get_buffer(STRENGTH).fill_(share)
        else:
            value = torch.tensor(share, dtype=torch.float32, device=layer.weight.device)
            layer.register_buffer(STRENGTH, value, persistent=False)
