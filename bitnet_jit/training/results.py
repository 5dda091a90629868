"""The loss curve of a run, as figures and as a picture, in its folder beside the packed model."""

import importlib.util
import math
from pathlib import Path

from bitnet_jit.system.files import beside, write_beside_and_rename
from bitnet_jit.system.writing import writing
from bitnet_jit.training.checkpoint import History

FIGURES, PICTURE = "losses.csv", "loss.png"
MAX_SMOOTHED = 50  # steps of the curve's running mean


def write_figures(history: History, out: Path) -> None:
    """Write losses.csv: step, bits per byte of its windows, and of the held-out text where it was judged.

    Raises:
        WriteError: the file cannot be written.
    """
    judged = {step: f"{bits:.6f}" for step, bits in history.validations}
    lines = ["step,bits_per_byte,validation"]
    for step, loss in enumerate(history.losses[: history.step].tolist(), 1):
        lines.append(f"{step},{loss / math.log(2):.6f},{judged.get(step, '')}")
    with writing(out / FIGURES):
        write_beside_and_rename(out / FIGURES, ("\n".join(lines) + "\n").encode())


def can_draw() -> bool:
    """Return whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def draw_curve(history: History, out: Path) -> None:
    """Write loss.png: bits per byte by steps. Needs matplotlib.

    Raises:
        WriteError: the file cannot be written.
    """
    import matplotlib.figure

    figure = matplotlib.figure.Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    bits = (history.losses[: history.step] / math.log(2)).tolist()
    steps = range(1, len(bits) + 1)
    axes.plot(steps, bits, color="tab:blue", alpha=0.25, linewidth=0.8, label="each step")
    width = min(MAX_SMOOTHED, 1 + len(bits) // 40)
    axes.plot(steps, smoothed(bits, width), color="tab:blue", label=f"mean of {width} steps")
    if history.validations:
        axes.plot(
            *zip(*history.validations, strict=True), "o-", color="tab:orange", markersize=4, label="held-out text"
        )
    axes.set(xlabel="step", ylabel="bits per byte", ylim=(None, min(8.2, max(bits))))
    axes.grid(alpha=0.3)
    axes.legend()
    with writing(out / PICTURE), beside(out / PICTURE) as temporary:
        figure.savefig(temporary, format="png", dpi=150)


def smoothed(values: list[float], width: int) -> list[float]:
    """Return the mean of each value and the values before it, up to `width` of them.

    >>> smoothed([1.0, 3.0, 5.0], 2)
    [1.0, 2.0, 4.0]
    """
    means, total = [], 0.0
    for place, value in enumerate(values):
        total += value - (values[place - width] if place >= width else 0.0)
        means.append(total / min(place + 1, width))
    return means
