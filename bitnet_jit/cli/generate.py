"""`bitnet-jit generate`: text to stdout as it is written, everything else to stderr."""

import time
from enum import Enum
from typing import TYPE_CHECKING, Annotated

import typer

from bitnet_jit.cli.patience import Patience
from bitnet_jit.cli.streams import tell, write

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bitnet_jit.generation.decoder import Decoder

WHICH_MODEL = "A directory, GGUF file, or hub id such as microsoft/bitnet-b1.58-2B-4T. [default: the embedded model]"
STOP = (
    "End the text behind this string, which is written; may be given again. One that is a special token of the model, "
    "such as </s>, ends the text at that token, which is not written."
)
SPECULATE = "Guess tokens, and verify several in one step: the text stays the same."
HEAD = (
    "How the output head is stored: checkpoint, int8, bfloat16 or float32; where it is ternary also i2 or t5, which "
    "are the fastest."
)
CACHE = "The dtype of cached keys and values: auto, float32, bfloat16 or int8; int8 is the smallest, and for CPUs."
ModelArgument = Annotated[str | None, typer.Argument(help=WHICH_MODEL, show_default=False)]
DeviceOption = Annotated[str | None, typer.Option(help="Such as cpu or cuda:0. [default: cpu]")]


class Guesses(Enum):
    """Ways to guess tokens."""

    NGRAM = "ngram"


def generate(
    prompt: Annotated[str, typer.Argument(help="The text to continue.", show_default=False)],
    model: Annotated[
        str | None,
        typer.Option(help=WHICH_MODEL),
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Limit of new tokens. [default: 128, or what the context leaves]")
    ] = None,
    temperature: Annotated[float, typer.Option(min=0, help="0 always takes the likeliest token.")] = 0.0,
    top_k: Annotated[int | None, typer.Option(min=1, help="Draw from the K likeliest tokens only.")] = None,
    top_p: Annotated[
        float | None, typer.Option(min=0, max=1, help="Draw from the likeliest tokens that together reach P.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Makes the draws repeatable.")] = None,
    stop: Annotated[list[str] | None, typer.Option(show_default=False, help=STOP)] = None,
    stop_token: Annotated[
        list[int] | None,
        typer.Option(min=0, show_default=False, help="End the text at the token of this id; may be given again."),
    ] = None,
    device: DeviceOption = None,
    head: Annotated[str, typer.Option(help=HEAD)] = "checkpoint",
    cache: Annotated[str, typer.Option(help=CACHE)] = "auto",
    speculate: Annotated[Guesses | None, typer.Option(help=SPECULATE)] = None,
) -> None:
    """Continue PROMPT with a ternary model: prints it and the continuation."""
    decoder = load_model(model, device, head, cache)
    from bitnet_jit.generation.speculation import Speculation
    from bitnet_jit.generation.text import stream_text
    from bitnet_jit.generation.unicode import well_formed

    start, ends = time.perf_counter(), [*(stop or ()), *(stop_token or ())]
    guesses = None if speculate is None else Speculation(speculate.value)
    pieces = stream_text(decoder, prompt, max_new_tokens, temperature, top_k, top_p, seed, ends, speculate=guesses)
    write(well_formed(prompt))
    show(pieces, start)
    if guesses is not None:
        tell(str(guesses))


def show(pieces: "Iterator[str]", start: float) -> None:
    """Write a text as it comes, and tell how fast it came."""
    times = []
    with Patience("preparing kernels, which takes a while the first time") as patience:
        for piece in pieces:
            patience.end()
            times.append(time.perf_counter())
            write(piece)
    write("\n")
    tell(rates(start, times[:-1]))  # the last piece is held-back text, no token


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


def rates(start: float, times: list[float]) -> str:
    """Return the measured rates in words, from the moment of the start and that of each token, in seconds."""
    text = f"{len(times)} tokens, the first after {times[0] - start:.2f} s"
    seconds = times[-1] - times[0]
    return text if len(times) < 2 or seconds <= 0 else f"{text}, then {(len(times) - 1) / seconds:.1f} tokens/s"
