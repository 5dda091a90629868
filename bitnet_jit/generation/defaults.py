"""`Defaults`: how a model's makers would have its tokens chosen, where nobody asks for another way."""

from dataclasses import dataclass
from typing import Any

from bitnet_jit.generation.sampling import Sampling

LIMITS = ("top_k", "top_p", "min_p")  # of draws: at temperature 0 they do nothing


@dataclass(frozen=True)
class Defaults:
    """What a model's files say of sampling; None where they say nothing.

    Attributes:
        source: the file or the keys that say it.
        temperature, top_k, top_p, min_p, repetition_penalty: as in `Sampling`.

    >>> defaults = Defaults("generation_config.json", temperature=0.6, top_p=0.95)
    >>> options = defaults.sampling(top_k=20)
    >>> options.temperature, options.top_k, options.top_p
    (0.6, 20, 0.95)
    >>> defaults.told(options)
    'temperature 0.6, top_p 0.95 (generation_config.json)'
    >>> Defaults().sampling() == Sampling()
    True
    """

    source: str = ""
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None

    def sampling(
        self,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        *,
        min_p: float | None = None,
        repetition_penalty: float | None = None,
    ) -> Sampling:
        """Return the options of a request: what it says, else what the files say, else the likeliest token.

        Args:
            temperature, top_k, top_p, seed, min_p, repetition_penalty: as in `Sampling`; None says nothing.

        Raises:
            InvalidInput: a value is out of range.
        """
        return Sampling(
            first(temperature, self.temperature, 0.0),
            first(top_k, self.top_k),
            first(top_p, self.top_p),
            seed,
            min_p=first(min_p, self.min_p),
            repetition_penalty=first(repetition_penalty, self.repetition_penalty, 1.0),
        )

    def told(self, options: Sampling) -> str:
        """Return which values of options are the files', in words; "" where none is that does something."""
        names = ("temperature", *(LIMITS if options.temperature else ()), "repetition_penalty")
        values = {name: getattr(self, name) for name in names}
        parts = [
            f"{name} {value:g}"
            for name, value in values.items()
            if value is not None and value == getattr(options, name)
        ]
        return f"{', '.join(parts)} ({self.source})" if parts else ""


def first(*values: float | None) -> Any:
    """Return the first value that says something; None where none does."""
    return next((value for value in values if value is not None), None)
