"""Calls of `delta_net`: sequences as wholes, cut into calls in any way, on caches that nobody has written yet."""

from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import strategies as st

from bitnet_jit.kernels import registry
from bitnet_jit.ops import calls
from bitnet_jit.ops.delta_net import DELTA_NET
from bitnet_jit.reference import delta_net as reference

SLOTS = 5
LENGTHS = (1, 2, 3, 4, 17, 33, 37, 67)
STEP = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-10}


@dataclass(frozen=True)
class Heads:
    """The heads of a gated DeltaNet, the taps of its convolution and the dtype of its tokens."""

    key_heads: int = 2
    heads: int = 4
    dk: int = 8
    dv: int = 16
    taps: int = 4
    dtype: torch.dtype = torch.float32

    @property
    def width(self):
        return 2 * self.key_heads * self.dk + self.heads * self.dv


@dataclass(frozen=True)
class Texts:
    """Sequences as wholes.

    Attributes:
        model: the heads.
        mixed, beta_alpha: per sequence (length, width) and (length, 2 heads).
        weights: conv_weight, decay, dt_bias.
        slots: of each sequence.
    """

    model: Heads
    mixed: list
    beta_alpha: list
    weights: tuple
    slots: list

    def caches(self):
        """History and states of SLOTS slots, full of NaN."""
        m = self.model
        history = torch.full((SLOTS, m.taps - 1, m.width), torch.nan, dtype=m.dtype)
        return history, torch.full((SLOTS, m.heads, m.dk, m.dv), torch.nan)

    def call(self, parts, caches, padding=0, spread=()):
        """The arguments of a call: (sequence, first position, tokens) each; padding behind all, and before `spread`."""
        rows = [(r, p) for r, first, count in parts for p in range(first, first + count)]
        ends = np.cumsum([0, *(count for _, _, count in parts)])
        for place in sorted((place for place in spread if place <= len(rows)), reverse=True):
            rows.insert(place, None)
            ends[1:] += ends[1:] >= max(place, 1)
        rows += [None] * padding
        none = torch.full((self.model.width,), torch.nan, dtype=self.model.dtype)
        mixed = [none if row is None else self.mixed[row[0]][row[1]] for row in rows]
        gates = [
            torch.full((2 * self.model.heads,), torch.nan) if row is None else self.beta_alpha[row[0]][row[1]]
            for row in rows
        ]
        index = [-1 if row is None else row[1] for row in rows], ends, [self.slots[r] for r, _, _ in parts]
        ints = (torch.tensor(np.array(a), dtype=torch.int32) for a in index)
        return [torch.stack(mixed), torch.stack(gates), *self.weights, *caches, *ints]


def make_texts(model, lengths, seed=0, scale=1.0):
    """Draw sequences of some lengths, with slots in any order."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=generator)

    mixed = [(normal(length, model.width) * scale).to(model.dtype) for length in lengths]
    gates = [normal(length, 2 * model.heads) * scale for length in lengths]
    weights = normal(model.width, model.taps), -normal(model.heads).exp(), normal(model.heads)
    return Texts(model, mixed, gates, weights, torch.randperm(SLOTS, generator=generator)[: len(lengths)].tolist())


@st.composite
def schedules(draw, lengths, most=40):
    """Calls until all sequences are done: of each (parts, padding behind all, places of padding between)."""
    done, result = [0] * len(lengths), []
    while any(a < b for a, b in zip(done, lengths, strict=True)):
        here = draw(st.permutations(range(len(lengths))))[: draw(st.integers(1, len(lengths)))]
        parts = []
        for r in here:
            count = min(draw(st.sampled_from((most, 5, 2, 1, 0))), lengths[r] - done[r])
            parts.append((r, done[r], count))
            done[r] += count
        if sum(count for _, _, count in parts):
            result.append((parts, draw(st.integers(0, 2)), draw(st.lists(st.integers(0, 6), max_size=2))))
    return result


def run_kernel(kernel, arguments):
    """Call a kernel as the op does, by its first config."""
    spec = DELTA_NET.spec
    problem = spec.problem(spec.check(arguments))
    operands = spec.operands_of(problem, arguments[0].shape[:-1])
    bound = kernel.bind(problem, kernel.configs(problem)[0])
    return calls.bind_call(kernel, bound, operands, arguments[0].device)(*arguments)


def kernel_of(backend):
    """The kernel of a backend."""
    (kernel,) = [kernel for kernel in registry.kernels_of(backend) if kernel.op == "delta_net"]
    return kernel


def run_schedule(call, texts, schedule):
    """Run calls one after the other; return y per sequence and the caches; `call` takes the arguments of one."""
    caches, rows = texts.caches(), [[] for _ in texts.mixed]
    for parts, padding, spread in schedule:
        arguments = texts.call(parts, caches, padding, spread)
        y, positions, starts = call(arguments), arguments[7], arguments[8].tolist()
        assert not y[positions < 0].any()
        for (r, _, _), start, end in zip(parts, starts[:-1], starts[1:], strict=True):
            rows[r].append(y[start:end][positions[start:end] >= 0])
    return [torch.cat(parts) for parts in rows], caches


def expected_of(arguments):
    """The reference's result for the arguments of a call."""
    return reference.delta_net(*((a.float() if a.is_floating_point() else a).numpy() for a in arguments))


def assert_near(y, caches, expected, dtype):
    """Compare y and caches with the reference's, within roundings; where that is not finite, neither are these."""
    history, states = caches
    np.testing.assert_array_equal(history.float().numpy(), expected.history)
    for actual, wanted, step in ((y, expected.y, STEP[dtype]), (states, expected.states, STEP[torch.float32])):
        actual, known = actual.double().numpy(), np.isfinite(wanted)
        np.testing.assert_array_equal(np.isfinite(actual), known)
        largest = np.abs(wanted[known]).max(initial=1.0)
        error = np.abs(actual - wanted, where=known, out=np.zeros_like(wanted))
        assert (error <= 3e-5 * largest + step * np.abs(wanted, where=known, out=np.zeros_like(wanted))).all(), (
            error.max()
        )


def assert_same_bits(one, other):
    """Compare rows and caches of two schedules, bit for bit."""
    for a, b in zip((*one[0], *one[1]), (*other[0], *other[1]), strict=True):
        width = torch.int32 if a.dtype == torch.float32 else torch.int16
        assert torch.equal(a.view(width), b.view(width))
