"""Prompts of one length or of many: the forms that callers may pass, and the results in the same forms."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from bitnet_jit.arguments import as_whole, show
from bitnet_jit.errors import InvalidInput
from bitnet_jit.generation.tokenizer import Tokenizer
from bitnet_jit.models.tokens import INTEGERS, TokenIds, as_batch

if TYPE_CHECKING:
    from bitnet_jit.generation.decoder import Decoder

DEFAULT_NEW_TOKENS = 128
Continued = torch.Tensor | list[torch.Tensor]


@dataclass(frozen=True)
class Prompts:
    """Prompts that are continued together.

    Attributes:
        rows: the token ids of each, one at least.
        flat: whether one was given without a batch dimension.
        given: the tensor that results begin with, int64 (B, T) on the model's device; None where prompts are of unequal
            lengths.
    """

    rows: list[list[int]]
    flat: bool
    given: torch.Tensor | None

    def result(self, tokens: Sequence[Sequence[int]], device: torch.device) -> Continued:
        """Return prompts with their new tokens, as `Decoder.generate` gives them back."""
        if self.given is None:
            pairs = zip(self.rows, tokens, strict=True)
            return [torch.tensor([*prompt, *new], dtype=torch.int64, device=device) for prompt, new in pairs]
        longest = max(map(len, tokens))
        filled = [[*new, *[new[-1]] * (longest - len(new))] for new in tokens]
        ids = torch.cat((self.given, torch.tensor(filled, dtype=torch.int64, device=device)), 1)
        return ids[0] if self.flat else ids


def as_prompts(
    input_ids: TokenIds, attention_mask: torch.Tensor | None, vocab_size: int, context: int, device: torch.device
) -> Prompts:
    """Check prompts; the arguments are those of `Decoder.generate`, and of `tokens.as_batch`.

    Raises:
        InvalidInput: one is empty, too long, holds an id out of range, or the mask is not that of a left-padded tensor.
    """
    if attention_mask is not None:
        return masked(input_ids, attention_mask, vocab_size, context, device)
    if is_ragged(input_ids):
        rows = [as_row(index, row, vocab_size, context) for index, row in enumerate(input_ids)]
        return Prompts(rows, False, None)
    batch = as_batch(input_ids, vocab_size, context, device)
    return Prompts(batch.tolist(), is_flat(input_ids), batch)


def is_ragged(input_ids: TokenIds) -> bool:
    """Return whether prompts are lists, or tensors in a list, of unequal lengths."""
    if isinstance(input_ids, torch.Tensor) or not isinstance(input_ids, (list, tuple)):
        return False
    kinds = (list, tuple, torch.Tensor)
    return all(isinstance(row, kinds) for row in input_ids) and len({len(row) for row in input_ids}) > 1


def is_flat(input_ids: TokenIds) -> bool:
    """Return whether one prompt was given without a batch dimension."""
    return input_ids.dim() == 1 if isinstance(input_ids, torch.Tensor) else not isinstance(input_ids[0], (list, tuple))


def as_row(index: int, row: TokenIds, vocab_size: int, context: int) -> list[int]:
    """Return one of several prompts as a list; an error tells which one it is."""
    if isinstance(row, list) and 0 < len(row) <= context and set(map(type, row)) == {int}:  # a tensor takes far longer
        numbers: list[int] = row  # type: ignore[assignment]
        if min(numbers) >= 0 and max(numbers) < vocab_size:
            return numbers.copy()
    try:
        (ids,) = as_batch(row, vocab_size, context, torch.device("cpu")).tolist()
    except InvalidInput as error:
        raise InvalidInput(f"{error} (in prompt {index})") from None
    return list(ids)


def encode_prompt(decoder: "Decoder", prompt: str) -> tuple[Tokenizer, list[int]]:
    """Return the decoder's tokenizer, and the prompt in its tokens.

    Raises:
        InvalidInput: the prompt is no str, empty or no tokens at all, or the model has no such token or came without a
            tokenizer.
        CheckpointError: the model's tokenizer.json is damaged.
    """
    if decoder.tokenizer is None:
        raise InvalidInput("prompt: this model came without a tokenizer, so it takes token ids only")
    if not isinstance(prompt, str):
        raise InvalidInput(f"prompt: expected a str, got {show(prompt)}")
    if not prompt:
        raise InvalidInput("prompt: expected at least one character, got ''")
    tokens = decoder.tokenizer.encode(prompt)
    if not tokens or tokens == decoder.tokenizer.encode(""):  # such as <s> alone, which stands before every text
        raise InvalidInput(f"prompt: the model's tokenizer makes no token of {show(prompt)}")
    if max(tokens) >= decoder.config.vocab_size:
        raise InvalidInput(
            f"prompt: the tokenizer makes the token {max(tokens)} of {show(prompt)}, but the model's vocabulary ends "
            f"at {decoder.config.vocab_size - 1}; its tokenizer.json is of another model, or the text holds a token "
            "that was added to it"
        )
    return decoder.tokenizer, tokens


def as_ids(decoder: "Decoder", index: int, text: str | TokenIds) -> list[int]:
    """Return one of several texts in tokens, whatever form it has; InvalidInput where it is none that fits."""
    ids = encode_prompt(decoder, text)[1] if isinstance(text, str) else text
    return as_row(index, ids, decoder.config.vocab_size, decoder.config.context_length)


def check_texts(texts: Sequence[str | TokenIds]) -> Sequence[str | TokenIds]:
    """Return texts that each become a vector. Raise InvalidInput where there are none, or one alone."""
    if isinstance(texts, str | bytes | torch.Tensor) or not isinstance(texts, Sequence) or not texts:
        raise InvalidInput(f"prompts: expected a list of texts, got {show(texts)}")
    return texts


def masked(
    input_ids: TokenIds, attention_mask: torch.Tensor, vocab_size: int, context: int, device: torch.device
) -> Prompts:
    """Return the prompts of a left-padded batch, (B, T) with a mask of the same shape: 0 before a prompt, 1 in it."""
    batch = as_batch(input_ids, vocab_size, 2**31 - 1, device)
    if not isinstance(attention_mask, torch.Tensor) or attention_mask.dtype not in (*INTEGERS, torch.bool):
        raise InvalidInput(f"attention_mask: expected a tensor of zeros and ones, got {show(attention_mask)}")
    if attention_mask.reshape(-1, attention_mask.shape[-1]).shape != batch.shape:
        shape = tuple(attention_mask.shape)
        raise InvalidInput(f"attention_mask: expected the shape of input_ids, {tuple(batch.shape)}, got {shape}")
    mask = attention_mask.reshape(batch.shape).cpu()
    lengths = mask.sum(1).tolist()
    for row, (length, bits) in enumerate(zip(lengths, mask.tolist(), strict=True)):
        if not length or bits != [0] * (len(bits) - length) + [1] * length:
            raise InvalidInput(
                f"attention_mask: expected zeros, then at least one 1 in each row (prompts padded on the left), got "
                f"{bits} in row {row}"
            )
        if length > context:
            raise InvalidInput(
                f"input_ids: {length} tokens in row {row}, but the model's context has room for {context}"
            )
    rows = [ids[len(ids) - length :] for ids, length in zip(batch.tolist(), lengths, strict=True)]
    return Prompts(rows, is_flat(input_ids), batch)


def limits_of(prompts: Prompts, context: int, max_new_tokens: int | None) -> list[int]:
    """Return how many tokens each text may get.

    Raises:
        InvalidInput: a prompt leaves no room, or max_new_tokens is no number from 1 to the room that the longest one
            leaves.
    """
    longest = max(map(len, prompts.rows))
    room = context - longest
    if not room:
        raise InvalidInput(
            f"input_ids: a prompt of {longest} tokens fills the model's context of {context}, so that no token "
            "can be added; shorten it"
        )
    if max_new_tokens is None:
        return [min(DEFAULT_NEW_TOKENS, context - len(row)) for row in prompts.rows]
    number = as_whole(max_new_tokens)
    if number is None or not 1 <= number <= room:
        raise InvalidInput(
            f"max_new_tokens: expected 1 to {room}, as a prompt of {longest} tokens leaves of the model's "
            f"context of {context}, got {show(max_new_tokens)}"
        )
    return [number] * len(prompts.rows)
