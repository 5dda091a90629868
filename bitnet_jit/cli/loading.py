"""A model that a command names, loaded while its user is told what goes on."""

from typing import TYPE_CHECKING

from bitnet_jit.cli.patience import Patience
from bitnet_jit.cli.streams import say

if TYPE_CHECKING:
    from bitnet_jit.checkpoints.formats.reader import Reader
    from bitnet_jit.generation.decoder import Decoder
    from bitnet_jit.generation.sampling import Sampling


def load_model(
    model: str | None, device: str | None, head: str = "checkpoint", cache: str = "auto", i2_s: str = "x86"
) -> "Decoder":
    """Load the model of that name, or the embedded one.

    Which format was found is told; the progress, where that takes over two seconds.
    """
    from bitnet_jit.checkpoints.embedded import embedded_model
    from bitnet_jit.checkpoints.hub import find_model

    directory = embedded_model() if model is None else find_model(model)  # a download shows its bars
    with Patience("loading") as patience:
        from bitnet_jit.checkpoints.checksum import weight_file_bytes
        from bitnet_jit.checkpoints.loading import load
        from bitnet_jit.system.memory import in_words

        readers: list[Reader] = []
        size = in_words(weight_file_bytes(directory))

        def begin(reader: "Reader") -> None:
            tell_format(reader)
            readers[:] = [reader]

        def update(done: int, total: int) -> None:
            patience.update(f"loading block {done} of {total}, {in_words(readers[0].bytes_read)} of {size}")

        return load(directory, device, progress=update, head=head, cache=cache, i2_s=i2_s, begun=begin)


def tell_format(reader: "Reader") -> None:
    """Tell which format was found."""
    say(f"loading: {reader.description}")


def tell_sampling(decoder: "Decoder", options: "Sampling") -> None:
    """Tell which of the options of a text are those of the model's files."""
    if words := decoder.defaults.told(options):
        say(f"sampling: {words}")


def sampling_of(
    decoder: "Decoder",
    temperature: float | None,
    top_k: int | None,
    top_p: float | None,
    min_p: float | None,
    repetition_penalty: float | None,
    seed: int | None,
) -> "Sampling":
    """Return how the tokens of a text are chosen: as options say, else as the model's files do, which is told."""
    options = decoder.defaults.sampling(
        temperature, top_k, top_p, seed, min_p=min_p, repetition_penalty=repetition_penalty
    )
    tell_sampling(decoder, options)
    return options
