"""The state of a run on disk: one safetensors file, from which the run goes on as if nothing had happened.

It holds the float weights, AdamW's two moments, the loss of every step and the validations. Its metadata hold the
format, the settings and a hash of the text.
"""

import hashlib
import json
import reprlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from bitnet_jit.checkpoints.formats.safetensors_file import DTYPES, SafetensorsFile
from bitnet_jit.errors import CheckpointError, InvalidInput
from bitnet_jit.system.files import beside
from bitnet_jit.system.reading import parse_json
from bitnet_jit.system.writing import writing
from bitnet_jit.training.settings import TrainSettings

FILE = "checkpoint.safetensors"
FORMAT = "bitnet_jit.training/2"
MOMENTS = ("exp_avg", "exp_avg_sq")  # AdamW's names
WORDS = {dtype: word for word, dtype in DTYPES.items()}  # safetensors' words for dtypes
MAX_DIGITS = 10  # of a number of steps


@dataclass(frozen=True)
class Run:
    """The run that a checkpoint belongs to.

    Attributes:
        settings: all of them.
        text: a hash of the bytes that the network learns from.
    """

    settings: TrainSettings
    text: str


@dataclass
class History:
    """The losses and validations of a run so far.

    Attributes:
        losses: float32 (steps,), in nats; NaN for steps to come.
        validations: (step, bits per byte).
        step: number of steps that are done.
        skipped: number of steps whose gradients were not finite, and which changed nothing.
    """

    losses: torch.Tensor
    validations: list[tuple[int, float]]
    step: int = 0
    skipped: int = 0


def hash_of(text: torch.Tensor) -> str:
    """Hash the bytes of a text."""
    return hashlib.sha256(text.contiguous().numpy().data).hexdigest()


def save(file: Path, run: Run, history: History, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Write the file beside its place and rename it.

    Raises:
        WriteError: it cannot be written; an older one is left as it was.
    """
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
    with writing(file), beside(file) as temporary:
        save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, temporary, metadata)


def restore(file: Path, run: Run, network: nn.Module, optimizer: torch.optim.Optimizer) -> History:
    """Take up a run. Everything is read and checked before anything is changed.

    Raises:
        CheckpointError: the file is damaged, or is no such checkpoint.
        InvalidInput: it belongs to another run; the first setting that differs is named.
    """
    try:
        opened = SafetensorsFile(file)
    except CheckpointError as error:
        raise damaged(file, str(error)) from error
    with opened:
        if opened.metadata.get("format") != FORMAT:
            raise CheckpointError(f"{file}: expected the format {FORMAT!r}, found {opened.metadata.get('format')!r}")
        check_same(file, run, read_settings(file, opened.metadata), opened.metadata.get("text"))
        step = read_count(file, opened.metadata, "step", run.settings.steps)
        skipped = read_count(file, opened.metadata, "skipped", step)
        check_layout(opened, network, run.settings.steps, step)
        tensors = {name: opened.read(name) for name in opened.tensors}
    check_weights(file, tensors)
    history = History(tensors["losses"], read_validations(file, tensors["validations"], step), step, skipped)
    check_losses(file, history)
    adopt(tensors, step - skipped, network, optimizer)
    return history


def damaged(file: Path, reason: str) -> CheckpointError:
    """Return the error for a file whose content cannot be right."""
    return CheckpointError(f"{file}: expected a checkpoint of a training, found a damaged one ({reason})")


def read_settings(file: Path, metadata: dict[str, str]) -> dict[str, Any]:
    """Return the settings in the metadata of a file; CheckpointError where they are no JSON object."""
    try:
        settings = parse_json(metadata.get("settings", ""))
    except ValueError as error:
        raise damaged(file, f"settings: {error}") from error
    if not isinstance(settings, dict):
        raise damaged(file, f"settings: expected an object, found {reprlib.repr(settings)}")
    return settings


def read_count(file: Path, metadata: dict[str, str], name: str, most: int) -> int:
    """Return a whole number from 0 to `most` in the metadata of a file; CheckpointError where it is another."""
    text = metadata.get(name, "")
    if not (text.isascii() and text.isdecimal() and len(text) <= MAX_DIGITS and int(text) <= most):
        raise damaged(file, f"{name}: expected a whole number from 0 to {most}, found {reprlib.repr(text)}")
    return int(text)


def check_same(file: Path, run: Run, settings: dict[str, Any], text: str | None) -> None:
    """Raise InvalidInput unless a checkpoint is of this run."""
    for name, value in asdict(run.settings).items():
        if settings.get(name) != value:
            raise InvalidInput(
                f"{name}: {file} is of a run with {name}={reprlib.repr(settings.get(name))}, this one has {value!r}; "
                "train into another folder, or with the same settings to go on"
            )
    if text != run.text:
        raise InvalidInput(f"text: {file} is of a run on another text; train into another folder")


def check_layout(opened: SafetensorsFile, network: nn.Module, steps: int, step: int) -> None:
    """Raise CheckpointError unless a file holds exactly a run's tensors, each of its dtype and shape."""
    layouts = {name: (stored.dtype, stored.shape) for name, stored in opened.tensors.items()}
    expected = {
        f"{kind}.{name}": (WORDS[parameter.dtype], tuple(parameter.shape))
        for name, parameter in network.named_parameters()
        for kind in ("weight", *MOMENTS)
    }
    expected["losses"] = ("F32", (steps,))
    validations = layouts.get("validations", ("", ()))[1]
    expected["validations"] = ("F64", (min(validations[0] if validations else 0, step), 2))
    for name, (dtype, shape) in expected.items():
        if layouts.get(name) != (dtype, shape):
            there = " ".join(map(str, layouts[name])) if name in layouts else "no such tensor"
            raise damaged(opened.path, f"{name}: expected {dtype} {shape}, found {there}")
    if extra := sorted(layouts.keys() - expected.keys()):
        raise damaged(opened.path, f"{extra[0]}: a tensor that such a run does not have")


def check_weights(file: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Raise CheckpointError unless weights and moments are finite, and second moments are not negative."""
    for name, tensor in tensors.items():
        kind = name.partition(".")[0]
        if kind in ("weight", *MOMENTS) and not bool(tensor.isfinite().all()):
            raise damaged(file, f"{name}: expected finite values, found NaN or infinity")
        if kind == MOMENTS[1] and bool((tensor < 0).any()):
            raise damaged(file, f"{name}: expected mean squares, found a negative value")


def read_validations(file: Path, rows: torch.Tensor, step: int) -> list[tuple[int, float]]:
    """Return (step, bits per byte) of each row, float64 (n, 2), of a run that has done so many steps.

    Raises:
        CheckpointError: a step is no whole number or out of order, or bits are negative or not finite.
    """
    before = 0
    for at, bits in rows.tolist():
        if not (before < at <= step and at == int(at) and 0 <= bits < float("inf")):
            raise damaged(file, f"validations: expected steps up to {step} in order, found {at:g} with {bits:g} bits")
        before = int(at)
    return [(int(at), bits) for at, bits in rows.tolist()]


def check_losses(file: Path, history: History) -> None:
    """Raise CheckpointError unless each step that was done has a loss, skipped ones excepted, and no other has."""
    done, to_come = history.losses[: history.step], history.losses[history.step :]
    if int(done.isnan().sum()) > history.skipped or not bool(to_come.isnan().all()):
        raise damaged(
            file, f"losses: expected those of {history.step} steps, found {int((~history.losses.isnan()).sum())}"
        )


def adopt(tensors: dict[str, torch.Tensor], updates: int, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Copy weights and moments into a network and its optimizer, which has made so many updates."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(tensors[f"weight.{name}"])
            optimizer.state[parameter] = {
                "step": torch.tensor(float(updates), dtype=torch.float32, device=parameter.device),
                **{moment: tensors[f"{moment}.{name}"].to(parameter.device) for moment in MOMENTS},
            }
