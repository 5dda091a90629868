"""Options that several commands have."""

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

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
TEMPLATE = "A chat template in Jinja, for models that came without one or in place of theirs."
I2_S = (
    "How I2_S of a GGUF file is laid out, which nothing in it tells: x86, arm, rows4, or auto, by the loss of a text."
)
OF_MODEL = "that of the model's files"
TEMPERATURE = "0 always takes the likeliest token."
TOP_K = "Draw from the K likeliest tokens only."
TOP_P = "Draw from the likeliest tokens that together reach P."
MIN_P = "Draw from tokens that are at least this share as likely as the likeliest."
PENALTY = "Above 1 makes tokens less likely that the text has already."


class Guesses(Enum):
    """Ways to guess tokens."""

    NGRAM = "ngram"


ModelArgument = Annotated[str | None, typer.Argument(help=WHICH_MODEL, show_default=False)]
DeviceOption = Annotated[str | None, typer.Option(help="Such as cpu or cuda:0. [default: cpu]")]
HeadOption = Annotated[str, typer.Option(help=HEAD)]
CacheOption = Annotated[str, typer.Option(help=CACHE)]
I2SOption = Annotated[str, typer.Option("--i2-s", metavar="VARIANT", help=I2_S)]
TemplateOption = Annotated[Path | None, typer.Option(help=TEMPLATE)]
SpeculateOption = Annotated[Guesses | None, typer.Option(help=SPECULATE)]
TemperatureOption = Annotated[float | None, typer.Option(min=0, help=f"{TEMPERATURE} [default: {OF_MODEL}, else 0]")]
TopKOption = Annotated[int | None, typer.Option(min=1, help=f"{TOP_K} [default: {OF_MODEL}]")]
TopPOption = Annotated[float | None, typer.Option(min=0, max=1, help=f"{TOP_P} [default: {OF_MODEL}]")]
MinPOption = Annotated[float | None, typer.Option(min=0, max=1, help=f"{MIN_P} [default: {OF_MODEL}]")]
PenaltyOption = Annotated[float | None, typer.Option(min=0, help=f"{PENALTY} [default: {OF_MODEL}, else 1]")]
SeedOption = Annotated[int | None, typer.Option(min=0, help="Makes the draws repeatable.")]
