"""`Source`: where a model of an engine comes from, and how it is to be loaded."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from bitnet_jit.arguments import show
from bitnet_jit.checkpoints.embedded import EMBEDDED, embedded_model
from bitnet_jit.checkpoints.formats.gguf.i2_s import USUAL
from bitnet_jit.checkpoints.hub import find_model
from bitnet_jit.checkpoints.loading import load
from bitnet_jit.errors import InvalidInput

if TYPE_CHECKING:
    from bitnet_jit.generation.decoder import Decoder


@dataclass(frozen=True)
class Source:
    """A checkpoint and the options of `bitnet_jit.load`; two that are equal give one model.

    Attributes:
        place: the real path of a folder or file, or a hub id.
        name: by which a model from there is known, where its user gives it none.
        devices: each gets the weights and a replica; one that is named twice gets two replicas on the same weights.
        dtype, head, cache, i2_s: as in `bitnet_jit.load`.

    >>> one, two = (Source.of(path, [torch.device("cpu")]) for path in (None, embedded_model()))
    >>> one == two, one.name
    (True, 'tiny-bitnet')
    """

    place: str
    name: str
    devices: tuple[torch.device, ...]
    dtype: torch.dtype = torch.float32
    head: str = "checkpoint"
    cache: str = "auto"
    i2_s: str = USUAL

    @classmethod
    def of(
        cls,
        path: str | os.PathLike[str] | None,
        devices: Sequence[torch.device],
        dtype: torch.dtype = torch.float32,
        head: str = "checkpoint",
        cache: str = "auto",
        i2_s: str = USUAL,
    ) -> "Source":
        """Return the source that a caller names; None is the small model of the package. InvalidInput for no path."""
        places = tuple(devices)
        if path is None:
            return cls(os.path.realpath(embedded_model()), EMBEDDED, places, dtype, head, cache, i2_s)
        if not isinstance(path, (str, os.PathLike)) or not isinstance(text := os.fspath(path), str) or not text:
            raise InvalidInput(f"path: expected a str or a path, got {show(path)}")
        if not isinstance(path, str) or os.path.lexists(text):
            return cls(os.path.realpath(text), Path(os.path.abspath(text)).name, places, dtype, head, cache, i2_s)
        return cls(text, Path(text).name or text, places, dtype, head, cache, i2_s)

    def find(self) -> Path:
        """Return its folder or file, downloaded once where it is on the hub; errors are those of `load`."""
        return find_model(Path(self.place) if os.path.isabs(self.place) else self.place)

    def load(self, path: Path) -> "list[Decoder]":
        """Load the model from where `find` has found it; return a decoder for each device."""
        loaded = {
            device: load(path, device, self.dtype, head=self.head, cache=self.cache, i2_s=self.i2_s)
            for device in dict.fromkeys(self.devices)
        }
        return [loaded[device] for device in self.devices]
