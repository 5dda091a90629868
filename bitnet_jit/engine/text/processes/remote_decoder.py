"""`RemoteDecoder`: a decoder as the engine holds it whose weights are in processes of its workers."""

from typing import TYPE_CHECKING, Any, NoReturn, Self

import torch

from bitnet_jit.errors import InvalidInput
from bitnet_jit.generation.decoder import Decoder
from bitnet_jit.nn.rms_norm import RMSNorm

if TYPE_CHECKING:
    from bitnet_jit.generation.defaults import Defaults
    from bitnet_jit.generation.tokenizer import Tokenizer
    from bitnet_jit.models.config import DecoderConfig

WORDS = (
    "module: the weights of this model are in processes of its workers, and it computes nothing here; it writes texts "
    "and embeddings by its engine; for tensors load it with EngineConfig(processes=False), or by bitnet_jit.load"
)


class RemoteDecoder(Decoder):
    """A decoder with a config and a tokenizer, and without weights.

    Args:
        config, dtype, tokenizer, defaults: as of a `Decoder`.
        place: the device of its first worker.

    Attributes:
        weight_count: of its weights in one process, once that has loaded them.
    """

    def __init__(
        self,
        config: "DecoderConfig",
        dtype: torch.dtype,
        tokenizer: "Tokenizer | None",
        place: torch.device,
        defaults: "Defaults | None" = None,
    ) -> None:
        meta = torch.device("meta")
        norm = RMSNorm(config.hidden_size, config.norm_eps, device=meta)
        embedding = torch.empty(config.vocab_size, config.hidden_size, dtype=dtype, device=meta)
        super().__init__(config, embedding, (), norm, None, dtype, tokenizer, defaults=defaults)
        self._place, self.weight_count = place, 0

    @property
    def device(self) -> torch.device:
        """Return the device of its first worker."""
        return self._place

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        """Raise InvalidInput: there are no weights here."""
        raise InvalidInput(WORDS)

    forward = generate = stream = hidden = run = run_to_logits = logits = new_cache = trace_problems = _refuse

    def _apply(self, *_: Any, **__: Any) -> Self:
        """Raise InvalidInput: what is not here is not moved."""
        raise InvalidInput(WORDS)
