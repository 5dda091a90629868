"""`bitnet-jit generate`: text to stdout as it is written, everything else to stderr."""

import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from bitnet_jit.cli.loading import load_model, sampling_of
from bitnet_jit.cli.options import (
    STOP,
    WHICH_MODEL,
    CacheOption,
    DeviceOption,
    Guesses,
    HeadOption,
    I2SOption,
    MinPOption,
    PenaltyOption,
    SeedOption,
    SpeculateOption,
    TemperatureOption,
    TopKOption,
    TopPOption,
)
from bitnet_jit.cli.patience import Patience
from bitnet_jit.cli.streams import tell, without_break, write
from bitnet_jit.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bitnet_jit.generation.decoder import Decoder
    from bitnet_jit.generation.sampling import Sampling


PROMPT = "The text to continue. [default: that of stdin, without its last line break; - as well]"
MAX_PROMPT = 2**24  # characters of stdin


def generate(
    prompt: Annotated[str | None, typer.Argument(help=PROMPT, show_default=False)] = None,
    model: Annotated[str | None, typer.Option(help=WHICH_MODEL)] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Limit of new tokens. [default: 128, or what the context leaves]")
    ] = None,
    temperature: TemperatureOption = None,
    top_k: TopKOption = None,
    top_p: TopPOption = None,
    min_p: MinPOption = None,
    repetition_penalty: PenaltyOption = None,
    seed: SeedOption = None,
    stop: Annotated[list[str] | None, typer.Option(show_default=False, help=STOP)] = None,
    stop_token: Annotated[
        list[int] | None,
        typer.Option(min=0, show_default=False, help="End the text at the token of this id; may be given again."),
    ] = None,
    device: DeviceOption = None,
    head: HeadOption = "checkpoint",
    cache: CacheOption = "auto",
    i2_s: I2SOption = "x86",
    speculate: SpeculateOption = None,
) -> None:
    """Continue PROMPT with a ternary model: prints it and the continuation."""
    text = read_prompt(prompt)
    decoder = load_model(model, device, head, cache, i2_s)
    options = sampling_of(decoder, temperature, top_k, top_p, min_p, repetition_penalty, seed)
    continue_text(decoder, text, max_new_tokens, options, [*(stop or ()), *(stop_token or ())], speculate)


def continue_text(
    decoder: "Decoder",
    text: str,
    max_new_tokens: int | None,
    options: "Sampling",
    ends: list[int | str],
    speculate: "Guesses | None",
) -> None:
    """Write a text and its continuation, and tell how fast it came."""
    from bitnet_jit.generation.speculation import Speculation
    from bitnet_jit.generation.text import stream_text
    from bitnet_jit.generation.unicode import well_formed

    start = time.perf_counter()
    guesses = None if speculate is None else Speculation(speculate.value)
    pieces = stream_text(decoder, text, max_new_tokens, stop=ends, sampling=options, speculate=guesses)
    write(well_formed(text))
    show(pieces, start)
    if guesses is not None:
        tell(str(guesses))


def read_prompt(given: str | None) -> str:
    """Return the prompt that was given; that of stdin, without its last line break, where it is "-" or there is none.

    Raises:
        InvalidInput: stdin has no text, or too much.
        BadParameter: nobody gave one, and stdin is a terminal, which is not waited for.
    """
    if given not in (None, "-"):
        return given
    if given is None and sys.stdin.isatty():
        raise typer.BadParameter("expected a text, as stdin is a terminal", param_hint="PROMPT")
    text = sys.stdin.read(MAX_PROMPT + 1)
    if len(text) > MAX_PROMPT:
        raise InvalidInput(f"prompt: expected at most {MAX_PROMPT} characters on stdin, got more")
    if not (text := without_break(text)):
        raise InvalidInput("prompt: expected a text as an argument or on stdin, and stdin is empty")
    return text


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


def rates(start: float, times: list[float]) -> str:
    """Return the measured rates in words, from the moment of the start and that of each token, in seconds."""
    text = f"{len(times)} tokens, the first after {times[0] - start:.2f} s"
    seconds = times[-1] - times[0]
    return text if len(times) < 2 or seconds <= 0 else f"{text}, then {(len(times) - 1) / seconds:.1f} tokens/s"
