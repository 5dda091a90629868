"""The state of a run on disk: one safetensors file, from which it goes on as if nothing had happened.

It holds the float weights, AdamW's two moments, the loss of every step and what was validated; its metadata the format,
the settings and a hash of the text.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from bitnet_jit.errors import CheckpointError, InvalidInput
from bitnet_jit.files import beside
from bitnet_jit.training.settings import TrainSettings

FILE = "checkpoint.safetensors"
FORMAT = "bitnet_jit.training/2"
MOMENTS = ("exp_avg", "exp_avg_sq")  # AdamW's names


@dataclass(frozen=True)
class Run:
    """What a checkpoint belongs to.

    Attributes:
        settings: all of them.
        text: a hash of the bytes that are learned from.
    """

    settings: TrainSettings
    text: str


@dataclass
class History:
    """What a run has seen so far.

    Attributes:
        losses: float32 (steps,), in nats; those to come are NaN.
        validations: (step, bits per byte).
        step: steps that are done.
        skipped: those among them whose gradients were not finite, and which changed nothing.
    """

    losses: torch.Tensor
    validations: list[tuple[int, float]]
    step: int = 0
    skipped: int = 0


def hash_of(text: torch.Tensor) -> str:
    """Of the bytes of a text."""
    return hashlib.sha256(text.numpy().tobytes()).hexdigest()


def save(file: Path, run: Run, history: History, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Write the file beside its place and rename it."""
    tensors = {f"weight.{name}": parameter.detach() for name, parameter in network.named_parameters()}
    for name, parameter in network.named_parameters():
        for moment in MOMENTS:
            tensors[f"{moment}.{name}"] = optimizer.state[parameter][moment]
    tensors["losses"] = history.losses
    tensors["validations"] = torch.tensor(history.validations, dtype=torch.float64, device="cpu").reshape(-1, 2)
    metadata = {
        "format": FORMAT,
        "step": str(history.step),
        "skipped": str(history.skipped),
        "settings": json.dumps(asdict(run.settings)),
        "text": run.text,
    }
    with beside(file) as temporary:
        save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, temporary, metadata)


def restore(file: Path, run: Run, network: nn.Module, optimizer: torch.optim.Optimizer) -> History:
    """Take up a run.

    Raises:
        CheckpointError: the file is damaged or none of ours.
        InvalidInput: it belongs to another run; the first setting that differs is named.
    """
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise CheckpointError(f"{file}: expected the format {FORMAT!r}, found {metadata.get('format')!r}")
            check_same(file, run, json.loads(metadata["settings"]), metadata["text"])
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  it is no dict
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        if isinstance(error, InvalidInput | CheckpointError):
            raise
        raise CheckpointError(f"{file}: expected a checkpoint of a training, found a damaged one ({error})") from error
    step, skipped = int(metadata["step"]), int(metadata["skipped"])
    adopt(tensors, step - skipped, network, optimizer)
    validations = [(int(step), bits) for step, bits in tensors["validations"].tolist()]
    return History(tensors["losses"], validations, step, skipped)


def check_same(file: Path, run: Run, settings: dict[str, object], text: str) -> None:
    """Raise InvalidInput unless a checkpoint is of this run."""
    for name, value in asdict(run.settings).items():
        if settings.get(name) != value:
            raise InvalidInput(
                f"{name}: {file} is of a run with {name}={settings.get(name)!r}, this one has {value!r}; "
                "train into another folder, or with the same settings to go on"
            )
    if text != run.text:
        raise InvalidInput(f"text: {file} is of a run on another text; train into another folder")


def adopt(tensors: dict[str, torch.Tensor], updates: int, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put weights and moments, after so many updates, where they belong."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(tensors[f"weight.{name}"])
            optimizer.state[parameter] = {
                "step": torch.tensor(float(updates), dtype=torch.float32, device=parameter.device),
                **{moment: tensors[f"{moment}.{name}"].to(parameter.device) for moment in MOMENTS},
            }
