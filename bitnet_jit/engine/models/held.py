"""`Held`: a model as the store of an engine holds it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from bitnet_jit.checkpoints.chat_template import ChatTemplate
    from bitnet_jit.checkpoints.checksum import Stamp
    from bitnet_jit.engine.models.model import Model
    from bitnet_jit.engine.models.source import Source
    from bitnet_jit.engine.tensors.batcher import BatchProcessor


@dataclass(eq=False)
class Held:
    """A model that an engine holds.

    Attributes:
        model: the model.
        source: where it was loaded from; None: its user made it.
        is_pinned: stays until its user lets it go, and counts for no limit.
        num_bytes: of its weights.
        checksum: that its files were known to have, or None.
        path: its folder or file, where it was loaded.
        stamp: of those files, before they were read.
        template: of its chats, once it is known.
        processor: finds the size of its batches, once it was asked for.
        uses: calls and requests that it has at the moment.
        last_use: orders models by when they were last asked for.
    """

    model: "Model"
    source: "Source | None"
    is_pinned: bool
    num_bytes: int
    checksum: str | None = None
    path: "Path | None" = None
    stamp: "Stamp" = ()
    template: "ChatTemplate | None" = None
    processor: "BatchProcessor | None" = None
    uses: int = 0
    last_use: int = 0

    def close(self, abandon: bool = False) -> None:
        """End its worker, after its requests or without them."""
        if self.model.replica is not None:
            self.model.replica.close("it is being closed", abandon)
