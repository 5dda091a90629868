"""Tensors of floats that files hold otherwise than we do: norms less 1 (Qwen3.5, Gemma), a convolution of three axes.

mlx-lm's folders have the convolution's taps before that axis, which tells them: their norms are whole.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from bitnet_jit.checkpoints.formats.hf_names import HfNames
from bitnet_jit.checkpoints.formats.nearest import nearest
from bitnet_jit.checkpoints.tensor_files import TensorFiles
from bitnet_jit.errors import InvalidInput
from bitnet_jit.models.config import DecoderConfig


@dataclass(frozen=True)
class FloatForm:
    """How files hold a tensor of floats.

    Attributes:
        read: what they hold -> ours.
        write: ours -> what they hold; float32 where `read` is no mere copy.
        stored: the shape of ours -> theirs.
    """

    read: Callable[[torch.Tensor], torch.Tensor]
    write: Callable[[torch.Tensor], torch.Tensor]
    stored: Callable[[tuple[int, ...]], tuple[int, ...]] = lambda shape: shape

    def moved(self, weight: torch.Tensor) -> float:
        """Return by how much, relative, numbers of a tensor of ours change where they are written and read.

        Infinity where one cannot be written, such as a decay that is not negative.
        """
        wanted, written = weight.float(), self.write(weight)
        difference = (self.read(written).float() - wanted).abs() / wanted.abs().clamp(min=SMALLEST)
        return float(difference.max()) if bool(written.isfinite().all()) else math.inf


def less_one(weight: torch.Tensor) -> torch.Tensor:
    """Return what comes nearest to a weight when 1 is added to it."""
    wanted = weight.float()
    return nearest(wanted, LESS_ONE.read, wanted - 1)


def logarithm(decay: torch.Tensor) -> torch.Tensor:
    """Return float32 whose negative exponential comes nearest to a decay, which is negative.

    >>> logarithm(torch.tensor([-1.0, -2.0])).exp()
    tensor([1., 2.])
    """
    return nearest(decay.float(), LOGARITHM.read, (-decay.double()).log().float())


SMALLEST = torch.finfo(torch.float32).tiny
SAME = FloatForm(lambda weight: weight, lambda weight: weight)
WIDE = FloatForm(lambda weight: weight.float(), lambda weight: weight.float())
LESS_ONE = FloatForm(lambda weight: weight.float() + 1, less_one)
LOGARITHM = FloatForm(lambda weight: -weight.float().exp(), logarithm)
AXIS_FIRST = FloatForm(
    lambda weight: weight[:, 0].float(), lambda weight: weight[:, None].float(), lambda shape: (shape[0], 1, shape[1])
)
AXIS_LAST = FloatForm(
    lambda weight: weight[:, :, 0].float(), lambda weight: weight[:, :, None].float(), lambda shape: (*shape, 1)
)


@dataclass(frozen=True)
class FloatForms:
    """The forms of a model's tensors, by the ends of our names; those that are not here are the same."""

    by_part: Mapping[str, FloatForm] = field(default_factory=dict)

    def of(self, name: str) -> FloatForm:
        """Return the form of a tensor."""
        return self.by_part.get(name.split(".", 2)[-1], SAME)

    def exactly(self, name: str, stored: str, weight: torch.Tensor) -> torch.Tensor:
        """Return what files hold for a tensor of ours.

        Raises:
            InvalidInput: it would not be read as the same numbers; the error has its name in the files.
        """
        if (form := self.of(name)) is SAME:
            return weight
        if moved := form.moved(weight):
            raise InvalidInput(
                f"{stored}: files hold such a norm less 1, in float32, which moves its numbers by up to {moved:.1e} of "
                "them"
            )
        return form.write(weight)


PLAIN = FloatForms()
NORMS = ("norm", "attention.norm", "attention.q_norm", "attention.k_norm", "delta_net.norm", "feed_forward.norm")
BRANCH_NORMS = ("attention.branch_norm", "feed_forward.branch_norm")
DELTA_NET = {"delta_net.decay": LOGARITHM, "delta_net.dt_bias": WIDE}


def forms_of(config: DecoderConfig, names: HfNames, files: TensorFiles) -> FloatForms:
    """Return the forms in which files hold a model's floats."""
    if (net := config.delta_net) is None:
        return usual_forms(config)
    conv = names.tensor(f"blocks.{net.attends.index(False)}.delta_net.conv")
    shape = files.entries[conv].shape if conv in files.entries else ()
    is_mlx = shape == AXIS_LAST.stored((net.mixed_features, net.taps))
    return mlx_forms(config) if is_mlx else usual_forms(config)


def usual_forms(config: DecoderConfig) -> FloatForms:
    """Return the forms in which folders of transformers hold a model's floats."""
    if config.delta_net is not None:
        return FloatForms(DELTA_NET | {"delta_net.conv": AXIS_FIRST} | dict.fromkeys(NORMS, LESS_ONE))
    return FloatForms(dict.fromkeys((*NORMS, *BRANCH_NORMS), LESS_ONE)) if config.branch_norms else PLAIN


def mlx_forms(config: DecoderConfig) -> FloatForms:
    """Return the forms in which folders of mlx-lm hold a model's floats."""
    return PLAIN if config.delta_net is None else FloatForms(DELTA_NET | {"delta_net.conv": AXIS_LAST})
