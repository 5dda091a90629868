"""`OptimizationLevel`: how much an engine does for a model's speed before the first request comes."""

from enum import Enum


class OptimizationLevel(Enum):
    """How much is done for a model's speed. Every level gives the same numbers and texts.

    Attributes:
        NONE: decode steps are run as they are, none is captured: the least memory, and for looking for errors.
        BASIC: decode steps are captured when sizes of batches have settled; kernels are those of earlier tuning, or of
            the choices that come with the package.
        AGGRESSIVE: also, a model is tuned when it is taken in (`bitnet_jit.autotune`; what it finds is kept on disk),
            and a few texts are written then, so that kernels are compiled and steps captured.
    """

    NONE = "none"
    BASIC = "basic"
    AGGRESSIVE = "aggressive"

    @property
    def captures(self) -> bool:
        """Return whether decode steps are captured."""
        return self is not OptimizationLevel.NONE

    @property
    def prepares(self) -> bool:
        """Return whether models are tuned and tried when they are taken in."""
        return self is OptimizationLevel.AGGRESSIVE
