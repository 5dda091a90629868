"""Tensors that share memory: one copy where a reader ties them again, and a copy for each of all others."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from bitnet_jit.checkpoints.formats.hf_names import EMBEDDING, HEAD

if TYPE_CHECKING:
    from bitnet_jit.checkpoints.model_tensors import Tensors

TIED = "tie_word_embeddings"


def one_copy_each(
    tensors: "Tensors", config: dict[str, Any], tied: Mapping[str, str] | None = None
) -> tuple["Tensors", dict[str, Any]]:
    """Return tensors that safetensors can write, and a config.json that is true of them.

    Args:
        tensors: all tensors of a model, by name.
        config: its config.json. Where it says that embeddings are tied and they are alike, the copies are left out;
            where they differ, the config says so from now on. Where it says that they are not tied, all are written.
        tied: the name of each further tied tensor, and of the one that it is tied to.

    >>> w = torch.ones(2, 2)
    >>> tensors, config = one_copy_each({HEAD: w, EMBEDDING: w}, {TIED: True})
    >>> list(tensors), config
    (['model.embed_tokens.weight'], {'tie_word_embeddings': True})
    >>> one_copy_each({HEAD: w, EMBEDDING: 2 * w}, {TIED: True})[1]
    {'tie_word_embeddings': False}
    """
    if config.get(TIED):
        pairs = {HEAD: EMBEDDING} | dict(tied or {})
        there = {copy: source for copy, source in pairs.items() if copy in tensors and source in tensors}
        if all(alike(tensors[copy], tensors[source]) for copy, source in there.items()):
            tensors = {name: tensor for name, tensor in tensors.items() if name not in there}
        else:
            config = config | {TIED: False}
    return apart(tensors), config


def alike(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Return whether two tensors are the same bits of the same dtype."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return a.data_ptr() == b.data_ptr() or torch.equal(a, b)


def apart(tensors: "Tensors") -> "Tensors":
    """Return the tensors, each in memory of its own: a tensor that shares memory with an earlier one is copied."""
    seen: set[int] = set()
    separate = {}
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        separate[name] = tensor.clone() if place in seen else tensor
        seen.add(place)
    return separate
