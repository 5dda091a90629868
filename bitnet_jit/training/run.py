"""`train`: a decoder learns a text, step by step; the run can be stopped and taken up again at any moment."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from bitnet_jit.devices.kinds import kind_of
from bitnet_jit.errors import BitNetError, CheckpointError
from bitnet_jit.models.trainable import HOST
from bitnet_jit.nn.bit_linear import BitLinear
from bitnet_jit.training.checkpoint import FILE, History, Run, hash_of, restore, save
from bitnet_jit.training.folder import alone
from bitnet_jit.training.interrupts import Interrupts
from bitnet_jit.training.network import TrainedDecoder
from bitnet_jit.training.settings import TrainSettings
from bitnet_jit.training.sizes import check_memory, memory_in_words
from bitnet_jit.training.text import bits_per_byte, draw

BETAS = (0.9, 0.95)
SAVE_SECONDS = 60.0  # between checkpoints
TELL_SECONDS = 0.5  # between reports of progress: each makes a GPU wait
VALIDATIONS = 10  # per run
MAX_SKIPPED = 8  # steps in a row without finite gradients, before a run is given up


@dataclass(frozen=True)
class Progress:
    """The progress of a run.

    Attributes:
        step: number of steps that are done.
        bits_per_byte: of the last step's windows.
        validation: bits per byte of the held-out text at the last validation; NaN before the first.
        bytes_per_second: speed of learning since the last report.
        skipped: number of steps so far whose gradients were not finite, and which changed nothing.
    """

    step: int
    bits_per_byte: float
    validation: float
    bytes_per_second: float
    skipped: int


def train(
    settings: TrainSettings,
    text: torch.Tensor,
    validation: torch.Tensor,
    out: Path,
    device: torch.device,
    compile: bool = False,
    progress: Callable[[Progress], None] = lambda _: None,
) -> tuple[TrainedDecoder, History]:
    """Train a decoder from its beginning, or from the checkpoint in `out`, to its end.

    Args:
        settings: of the network and of its training.
        text: uint8 (size,), to learn from.
        validation: uint8 (size,), to be judged by; nothing is chosen by it.
        out: a folder for the checkpoint; it is written every minute, and when the run ends or is interrupted.
        device: a GPU computes in bfloat16 with float32 weights, a CPU in float32.
        compile: whether torch.compile compiles the whole network as one graph.
        progress: called about twice a second, and at the end.

    Returns:
        The network, and the history of the run.

    Raises:
        BitNetError: gradients are not finite step after step, or the final weights are not.
        CheckpointError: the checkpoint in `out` is damaged.
        InvalidInput: the checkpoint in `out` is of another run, another process trains into `out`, or the settings ask
            for more memory than the device has.
        OutOfMemory: memory ran out.
        WriteError: the checkpoint cannot be written; an older one is left as it was.
    """
    gpus = [device] if kind_of(device).own_random_state else []
    # the caller's random numbers are left alone
    with torch.random.fork_rng(gpus), memory_in_words(settings, device):
        trainer = Trainer(settings, text, validation, device, compile)
        with alone(out):
            trainer.whole_run(out / FILE, progress)
    return trainer.network.eval(), trainer.history


class Trainer:
    """A run: a network, its optimizer and its history."""

    def __init__(
        self,
        settings: TrainSettings,
        text: torch.Tensor,
        validation: torch.Tensor,
        device: torch.device,
        compile: bool = False,
    ) -> None:
        check_memory(settings, device)
        self.settings, self.text, self.validation, self.device = settings, text, validation, device
        self.run = Run(settings, hash_of(text))
        linear = nn.Linear if settings.dense else BitLinear
        self.network = TrainedDecoder(settings.decoder(), linear, settings.seed, settings.dropout).to(device)
        self.optimizer = make_optimizer(self.network, settings)
        self.loss = torch.compile(self.network.loss, fullgraph=True) if compile else self.network.loss
        self.history = History(torch.full((settings.steps,), math.nan, **HOST), [])
        self.recent: list[torch.Tensor] = []  # losses that the device may still compute
        self.skipped = torch.zeros(
            2, dtype=torch.float32, device=device
        )  # steps: since the last collect(), and in a row
        self.between_steps = True  # whether weights and history belong together

    def whole_run(self, file: Path, progress: Callable[[Progress], None]) -> None:
        """Run from the checkpoint, if there is one, to the end; leave a checkpoint if the end is not reached."""
        if is_begun(file):
            self.history = restore(file, self.run, self.network, self.optimizer)
        try:
            if self.history.step == self.settings.steps and not self.is_judged():
                self.judge()  # the run was stopped just before
            self.to_the_end(file, progress)
        finally:
            if self.recent and self.between_steps:
                self.save(file)

    def to_the_end(self, file: Path, progress: Callable[[Progress], None]) -> None:
        """Run all remaining steps, with a checkpoint now and then."""
        saved = told = time.monotonic()
        told_step, every = self.history.step, max(1, self.settings.steps // VALIDATIONS)
        with Interrupts() as interrupts:
            while self.history.step < self.settings.steps:
                self.advance()
                step, last = self.history.step, self.history.step == self.settings.steps
                if step % every == 0 or last:
                    self.judge()
                if last or time.monotonic() - told > TELL_SECONDS:
                    now = time.monotonic()
                    state = self.state((step - told_step) / (now - told))
                    self.check()
                    progress(state)
                    told, told_step = now, step
                if last or time.monotonic() - saved > SAVE_SECONDS:
                    self.check()
                    self.save(file)
                    saved = time.monotonic()
                interrupts.check()

    def advance(self) -> None:
        """Run one step."""
        settings, step, self.between_steps = self.settings, self.history.step, False
        torch.manual_seed(settings.seed + (step << 32))  # of dropout: the same for a step in a run that was taken up
        windows = draw(self.text, settings.batch_size, settings.window, settings.seed, step).to(self.device)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(settings, step)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type != "cpu"):
            loss = self.loss(windows)
        torch.autograd.backward(loss)
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), settings.clip)
        self.update(~norm.isfinite())
        self.recent.append(loss.detach())
        self.history.step = step + 1
        self.between_steps = True

    def update(self, skip: torch.Tensor) -> None:
        """Change the weights, unless `skip`, a bool () on the device, is true; nobody waits for it.

        A fused optimizer reads it from `found_inf`, as with torch.amp.GradScaler.
        """
        self.optimizer.found_inf = skip.float()  # type: ignore[attr-defined]
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.skipped += skip
        self.skipped[1] *= skip

    def collect(self) -> None:
        """Wait for the losses that are being computed, and note them."""
        if self.recent:
            end = self.history.step
            self.history.losses[end - len(self.recent) : end] = torch.stack(self.recent).float().cpu()
            self.recent.clear()
            self.history.skipped += int(self.skipped[0])
            self.skipped[0] = 0

    def judge(self) -> None:
        """Measure bits per byte of the held-out text, in float32."""
        self.network.eval()
        bits = bits_per_byte(
            lambda windows: self.network(windows.to(self.device)),
            self.validation,
            self.settings.window,
            self.settings.batch_size,
        )
        self.network.train()
        self.history.validations.append((self.history.step, bits))

    def state(self, steps_per_second: float) -> Progress:
        """Return the progress; it asks the device, and so waits for it."""
        history, settings = self.history, self.settings
        last = self.recent[-1] if self.recent else history.losses[history.step - 1]
        return Progress(
            history.step,
            float(last) / math.log(2),
            history.validations[-1][1] if history.validations else math.nan,
            steps_per_second * settings.batch_size * settings.window,
            history.skipped + int(self.skipped[0]),
        )

    def check(self) -> None:
        """Raise BitNetError where gradients are not finite step after step; no checkpoint is made of such weights."""
        if (in_a_row := int(self.skipped[1])) >= min(MAX_SKIPPED, self.settings.steps):
            self.between_steps = False
            raise BitNetError(
                f"the gradients of the last {in_a_row} steps, up to step {self.history.step}, are not finite: the "
                f"weights have diverged; try a learning_rate below {self.settings.learning_rate} or more "
                "warmup_steps, in another folder"
            )

    def is_judged(self) -> bool:
        """Return whether the weights of this step were judged."""
        return bool(self.history.validations) and self.history.validations[-1][0] == self.history.step

    def save(self, file: Path) -> None:
        """Write a checkpoint; BitNetError where weights are not finite: no run can go on from there."""
        if not all(bool(parameter.isfinite().all()) for parameter in self.network.parameters()):
            self.between_steps = False
            raise BitNetError(
                f"the weights at step {self.history.step} are not finite: they have diverged; try a learning_rate "
                f"below {self.settings.learning_rate} or more warmup_steps, in another folder"
            )
        self.collect()
        save(file, self.run, self.history, self.network, self.optimizer)


def is_begun(file: Path) -> bool:
    """Return whether there is a checkpoint; CheckpointError where its folder cannot be read."""
    try:
        file.stat()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read ({error.strerror})") from error
    return True


def make_optimizer(network: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    """Make AdamW (arXiv 1711.05101); the weights of norms do not decay."""
    parameters = list(network.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=BETAS, fused=True)


def learning_rate(settings: TrainSettings, step: int) -> float:
    """Compute the learning rate of a step: up in a line, then down along a cosine (arXiv 1608.03983).

    >>> settings = TrainSettings(learning_rate=1.0, final_learning_rate=0.0, warmup_steps=2, steps=6)
    >>> [round(learning_rate(settings, step), 2) for step in range(6)]
    [0.5, 1.0, 1.0, 0.85, 0.5, 0.15]
    """
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    done = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    share = settings.final_learning_rate + (1 - settings.final_learning_rate) * (1 + math.cos(math.pi * done)) / 2
    return settings.learning_rate * share
