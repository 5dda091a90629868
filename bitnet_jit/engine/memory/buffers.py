"""`InferenceBuffers`: the memory of one call of a module: what it reads, what it made, and what is between."""

from dataclasses import dataclass, field

import torch

from bitnet_jit.engine.memory.staging import Staged


@dataclass
class InferenceBuffers:
    """The tensors of a call. `EngineMemory.prepare` makes them, `begin_fetch` and `finish` go on with them.

    Attributes:
        input: the joined rows on the module's device, out of a pool where they are large; None when they were read.
        home: the device on which the result is to stay; None: the one where it is made.
        output: the result there; None before it has come.
        staging: page-locked parts of a result that is on its way to the CPU.
    """

    input: torch.Tensor | None
    home: torch.device | None = None
    output: torch.Tensor | None = None
    staging: list[Staged] = field(default_factory=list)
