"""Tensors of floats that files hold otherwise than we do: norms less 1 (Qwen3.5, Gemma), a convolution of three axes.

mlx-lm's folders have the convolution's taps before that axis, which tells them: their norms are whole.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from bitnet_jit.checkpoints.formats.hf_names import HfNames
from bitnet_jit.checkpoints.tensor_files import TensorFiles
from bitnet_jit.models.config import DecoderConfig


@dataclass(frozen=True)
class FloatForm:
    """How files hold a tensor of floats.

    Attributes:
        read: what they hold -> ours.
        stored: the shape of ours -> theirs.
    """

    read: Callable[[torch.Tensor], torch.Tensor]
    stored: Callable[[tuple[int, ...]], tuple[int, ...]] = lambda shape: shape


SAME = FloatForm(lambda weight: weight)
WIDE = FloatForm(lambda weight: weight.float())
LESS_ONE = FloatForm(lambda weight: weight.float() + 1)
LOGARITHM = FloatForm(lambda weight: -weight.float().exp())
AXIS_FIRST = FloatForm(lambda weight: weight[:, 0].float(), lambda shape: (shape[0], 1, shape[1]))
AXIS_LAST = FloatForm(lambda weight: weight[:, :, 0].float(), lambda shape: (*shape, 1))


@dataclass(frozen=True)
class FloatForms:
    """The forms of a model's tensors, by the ends of our names; those that are not here are the same."""

    by_part: Mapping[str, FloatForm] = field(default_factory=dict)

    def of(self, name: str) -> FloatForm:
        """Return the form of a tensor."""
        return self.by_part.get(name.split(".", 2)[-1], SAME)


PLAIN = FloatForms()
NORMS = ("norm", "attention.norm", "attention.q_norm", "attention.k_norm", "delta_net.norm", "feed_forward.norm")
BRANCH_NORMS = ("attention.branch_norm", "feed_forward.branch_norm")
DELTA_NET = {"delta_net.decay": LOGARITHM, "delta_net.dt_bias": WIDE}


def forms_of(config: DecoderConfig, names: HfNames, files: TensorFiles) -> FloatForms:
    """Return the forms in which files hold a model's floats."""
    if (net := config.delta_net) is None:
        return FloatForms(dict.fromkeys((*NORMS, *BRANCH_NORMS), LESS_ONE)) if config.branch_norms else PLAIN
    conv = names.tensor(f"blocks.{net.attends.index(False)}.delta_net.conv")
    shape = files.entries[conv].shape if conv in files.entries else ()
    if shape == AXIS_LAST.stored((net.mixed_features, net.taps)):
        return FloatForms(DELTA_NET | {"delta_net.conv": AXIS_LAST})
    return FloatForms(DELTA_NET | {"delta_net.conv": AXIS_FIRST} | dict.fromkeys(NORMS, LESS_ONE))
