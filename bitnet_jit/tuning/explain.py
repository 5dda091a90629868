"""`explain`: tell which kernel runs a problem and why, how long it takes, and how near that is to the roofline."""

import contextlib
from dataclasses import dataclass, replace

import torch
from torch import nn

from bitnet_jit.arguments import whole_number
from bitnet_jit.devices.checks import check_device
from bitnet_jit.devices.kinds import kind_named
from bitnet_jit.errors import InvalidInput
from bitnet_jit.ops import calls
from bitnet_jit.problem import Problem, rows_bucket
from bitnet_jit.runtime.dispatcher import Choice
from bitnet_jit.tuning.contenders import Contender
from bitnet_jit.tuning.problems import MAX_ROWS, check_memory, device_of, problems_of_model
from bitnet_jit.tuning.roofline import Roofline, roofline
from bitnet_jit.tuning.tune import tune
from bitnet_jit.tuning.work import Work, work_of


@dataclass(frozen=True)
class Explanation:
    """The explanation of one problem.

    Attributes:
        choice: the kernel and config that run, every other kernel's refusal, and the tuned choice.
        microseconds: what a call takes: as tuning measured it, else measured now; None where it could not be.
        work: bytes and operations of a call.
        roofline: what the device can do.
    """

    choice: Choice
    microseconds: float | None
    work: Work
    roofline: Roofline

    @property
    def share(self) -> float | None:
        """Return the time that the device's roofline allows over that of a call; above 1 if the weight stays cached."""
        return None if self.microseconds is None else self.roofline.min_microseconds(self.work) / self.microseconds

    def why(self) -> str:
        """Return why this kernel and config run, in words."""
        tuned = self.choice.tuned
        if tuned is None:
            return "the first that fits; nothing was tuned for it here (bitnet_jit.autotune)"
        default = tuned.default_microseconds
        origin = f"{tuned.origin}, {tuned.effort} tuning"
        return (
            f"{origin}: the default takes {default:.1f} us"
            if default > tuned.microseconds
            else f"{origin}: it is the default"
        )

    def __str__(self) -> str:
        choice, tuned = self.choice, self.choice.tuned
        lines = [("kernel", choice.kernel.name), ("config", str(choice.config)), ("why", self.why())]
        lines += [("time", f"{self.microseconds:.1f} us")] if self.microseconds else []
        if self.share is not None:
            bound, roofline = self.roofline.bound(self.work), self.roofline
            limit = (
                f"{roofline.bytes / 1e9:.0f} GB/s" if bound == "memory" else f"{roofline.operations / 1e12:.1f} TOP/s"
            )
            lines += [("roofline", f"{100 * self.share:.0f} % of what {bound} allows ({limit}, {roofline.origin})")]
        if tuned is not None and tuned.runner_up is not None:
            lines += [("runner-up", f"{tuned.runner_up}, {tuned.runner_up_microseconds:.1f} us")]
        lines += [("refused", f"{name}: {reason}") for name, reason in choice.refusals.items()]
        return "\n".join([str(choice.problem), *(f"  {name:<10} {text}" for name, text in lines)])


class Explanations(tuple[Explanation, ...]):
    """The explanations of all problems of a module; print it."""

    def __str__(self) -> str:
        return "\n\n".join(map(str, self))


def explain(layer_or_problem: nn.Module | Problem, rows: int | None = None) -> Explanations:
    """Tell which kernel and config run a layer here, why, and how near it comes to what this device can do.

    What tuning has not timed is timed now, and so is the device's roofline where it is not known yet: some seconds
    once. Nothing is chosen anew.

    Args:
        layer_or_problem: a packed layer, a module with such layers, or a problem such as `autotune` reports.
        rows: number of rows of the input, which stands for its power of two; None: the problem's own, else 1.

    Returns:
        One explanation per problem.

    Raises:
        InvalidInput: an argument that cannot be meant; it is named.
        UnsupportedProblem: no kernel runs it.

    >>> import bitnet_jit
    >>> (explanation,) = bitnet_jit.explain(bitnet_jit.PackedBitLinear(128, 64), rows=1)
    >>> explanation.choice.problem.op, explanation.work.num_operations
    ('bit_linear', 16384)
    """
    rows = None if rows is None else whole_number("rows", rows, most=MAX_ROWS, none=True)
    if isinstance(layer_or_problem, nn.Module):
        device = device_of(layer_or_problem)
        problems = list(problems_of_model(layer_or_problem, (rows or 1,)))
    elif isinstance(layer_or_problem, Problem):
        device = check_device(kind_named(layer_or_problem.device_type).tensor_type)
        problems = [replace(layer_or_problem, rows=rows_bucket(rows or layer_or_problem.rows))]
    else:
        raise InvalidInput(f"layer_or_problem: expected a torch module or a Problem, got {layer_or_problem!r}")
    check_memory(problems, device)
    return Explanations(explained(problem, device) for problem in problems)


def explained(problem: Problem, device: torch.device) -> Explanation:
    """Return the explanation of one problem."""
    choice = calls.DISPATCHER.choose(problem)
    microseconds = choice.tuned.microseconds if choice.tuned else time_of(choice, device)
    return Explanation(choice, microseconds, work_of(problem), roofline(device))


def time_of(choice: Choice, device: torch.device) -> float | None:
    """Return the microseconds of a call, measured now; None where that cannot be done."""
    with contextlib.suppress(RuntimeError):  # graphs hold no kernels in plain torch operations
        tuned = tune(choice.problem, device=device, among=[Contender(choice.kernel, choice.config)])
        return None if tuned is None else tuned.microseconds
    return None
