"""Packed layers under FSDP: their tensors stay whole on every process, and parameters trained beside them are sharded.

A packed layer takes 2 bits per weight and never changes, so there is little to gain by sharding it; and FSDP takes no
scalar, such as the scale of a whole weight ("doesn't support scalar parameters"). Both FSDPs can be told to ignore
parameters.
"""

from torch import nn

from bitnet_jit.errors import InvalidInput
from bitnet_jit.nn.packed_bit_linear import PackedBitLinear


def packed_parameters(model: nn.Module) -> set[nn.Parameter]:
    """Return the frozen parameters of a model's packed layers, which FSDP has to ignore.

    Move the model to its device first: FSDP moves no parameters that it ignores. LoRA then trains as usual:

        model = add_lora(pack(model)).to(device)
        ignored = packed_parameters(model)
        for block in model.blocks:
            fully_shard(block, ignored_params=ignored)           # FSDP2, of torch 2.7 and later
        fully_shard(model, ignored_params=ignored)
        model = FullyShardedDataParallel(model, use_orig_params=True, ignored_states=ignored)    # or FSDP1

    DistributedDataParallel needs no such list.

    Args:
        model: a module that holds PackedBitLinear layers, or one itself.

    Returns:
        Packed weights, scales, and the biases and inner norms that want no gradient.

    Raises:
        InvalidInput: there is no PackedBitLinear.

    >>> from bitnet_jit.nn.lora_linear import LoraLinear
    >>> layer = LoraLinear(PackedBitLinear(8, 4), r=2)
    >>> ignored = packed_parameters(layer)
    >>> [name for name, parameter in layer.named_parameters() if parameter not in ignored]
    ['lora_A.weight', 'lora_B.weight']
    """
    layers = [module for module in model.modules() if isinstance(module, PackedBitLinear)]
    if not layers:
        raise InvalidInput(f"model: {type(model).__name__} has no PackedBitLinear; bitnet_jit.pack makes them")
    return {parameter for layer in layers for parameter in layer.parameters() if not parameter.requires_grad}
