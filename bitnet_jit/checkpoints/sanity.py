"""A guard against fluent garbage: the loss of a fixed text, by which a misread model shows.

A file that is half understood (rows of q and k in another order, codes of another variant, a rotation left out) gives
codes, densities and scales as they ought to be, and a model that writes nonsense. Its loss tells: a trained model gives
English far more than chance.
"""

import logging
import math
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from bitnet_jit.errors import CheckpointError, CheckpointWarning

if TYPE_CHECKING:
    from bitnet_jit.generation.decoder import Decoder

logger = logging.getLogger(__name__)

Made = TypeVar("Made", bound="tuple[Decoder, Any]")

TEXT = "The capital of France is Paris, and the capital of Germany is Berlin."
MIN_VOCABULARY = 4096  # models of fewer tokens are made to try things, and may be random
MAX_SECONDS = 1.0
OPERATIONS = {"cpu": 2e11}  # per second, on a slow one
OTHERS = 2e13
CHANCE = 0.9  # of the loss of tokens drawn at random: above it, the model knows no English, or was misread


def loss_of(decoder: "Decoder", text: str = TEXT) -> float:
    """Return the mean negative log-likelihood of a text's tokens in nats; NaN where logits are not finite."""
    assert decoder.tokenizer is not None
    ids = torch.tensor([decoder.tokenizer.encode(text)], device=decoder.device)
    logits = decoder(ids)[0, :-1].float()
    return float(torch.nn.functional.cross_entropy(logits, ids[0, 1:]))


def check_sane(decoder: "Decoder", where: str, stacklevel: int = 2) -> None:
    """Warn CheckpointWarning where a model gives a text no more than chance; small and slow ones are not tried.

    Args:
        decoder: the model.
        where: its files, for the warning.
        stacklevel: of the warning.
    """
    vocabulary = decoder.config.vocab_size
    if decoder.tokenizer is None or vocabulary < MIN_VOCABULARY or seconds(decoder) > MAX_SECONDS:
        return
    loss, chance = loss_of(decoder), math.log(vocabulary)
    logger.info("%s: the loss of a text is %.2f nats per token, chance is %.2f", where, loss, chance)
    if not loss < CHANCE * chance:
        warnings.warn(
            f"{where}: expected a loss of an English text below chance ({chance:.1f} nats a token), found {loss:.1f}: "
            "the model knows no English, or its file was misread; its text will be garbage",
            CheckpointWarning,
            stacklevel=stacklevel + 1,
        )


def seconds(decoder: "Decoder") -> float:
    """Estimate the seconds of a forward of the text: a token takes two operations per weight."""
    config = decoder.config
    in_block = config.hidden_size * (2 * config.q_features + 2 * config.kv_features + 3 * config.intermediate_size)
    weights = config.num_layers * in_block + config.vocab_size * config.hidden_size
    return 2 * weights * len(TEXT) / 4 / OPERATIONS.get(decoder.device.type, OTHERS)  # a token has about four letters


def best_of(makers: Mapping[str, Callable[[], Made]], where: str) -> Made:
    """Return what a maker makes, a decoder first, that gives a text the lowest loss; all others are let go.

    Raises:
        CheckpointError: none can be made; that of the last one.
    """
    best: tuple[float, Made] | None = None
    for number, (name, make) in enumerate(makers.items(), 1):
        try:
            made = make()
        except CheckpointError as error:
            logger.info("%s: cannot be read as %s (%s)", where, name, error)
            if best is None and number == len(makers):
                raise
            continue
        loss = loss_of(made[0])
        logger.info("%s: read as %s, the loss of a text is %.2f nats per token", where, name, loss)
        if best is None or loss < best[0]:
            best = (loss, made)
    assert best is not None
    return best[1]
