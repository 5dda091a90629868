"""A model that a command names, loaded while its user is told what goes on."""

from typing import TYPE_CHECKING

from bitnet_jit.cli.patience import Patience

if TYPE_CHECKING:
    from bitnet_jit.generation.decoder import Decoder


def load_model(model: str | None, device: str | None, head: str = "checkpoint", cache: str = "auto") -> "Decoder":
    """Load the model of that name, or the embedded one; tell the progress where that takes over two seconds."""
    from bitnet_jit.checkpoints.embedded import embedded_model
    from bitnet_jit.checkpoints.hub import find_model

    directory = embedded_model() if model is None else find_model(model)  # a download shows its bars
    with Patience("loading") as patience:
        from bitnet_jit.checkpoints.loading import load

        def update(done: int, total: int) -> None:
            patience.update(f"loading block {done} of {total}")

        return load(directory, device, progress=update, head=head, cache=cache)
