"""A runner whose steps fail when they are told to, at any moment, as a device's do."""

from collections import deque

import torch

MOMENTS = ("before", "reserved", "within", "after", "choosing", "noted")
NO_MEMORY = "memory"
BUG = "bug"


class Killed(BaseException):
    """Ends a thread, as nothing that a step does should."""


def error_of(kind):
    """Return an error of a kind."""
    if kind == NO_MEMORY:
        return torch.OutOfMemoryError("no memory: it was injected")
    if kind == BUG:
        return ZeroDivisionError("a bug: it was injected")
    if kind == "killed":
        return Killed("it was injected")
    return torch.AcceleratorError("the device is gone: it was injected")


class FaultyRunner:
    """Passes steps on to a runner, and raises what `armed` holds: one entry (moment, kind of error) per step.

    "before" nothing is done; "reserved" pages are taken; "within" keys and values are written, but not counted;
    "after" they are; "choosing" logits are there, and no token; "noted" tokens were chosen, and nobody got them.

    A request is cursed by `cursed[request] = (moment, tokens)`: with so many new tokens or more, each step that has it
    fails. The moment may also be "adding", when the sampler is told of it.
    """

    def __init__(self, replica):
        self.runner, self.writer = replica._runner, replica._writer
        self.armed, self.steps, self.most = deque(), 0, None
        self.hit, self._present = [], []  # the sequences of steps that failed, and of the present one
        self.cursed = {}
        self.sampler = self.writer._sampler
        self.writer._runner = self
        self._late = None
        choose, note = self.sampler.choose, self.sampler.note

        def failing_choose(*arguments):
            self._raise_late("choosing")
            return choose(*arguments)

        def failing_note(rows, tokens):
            note(rows, tokens)
            self._raise_late("noted")

        self.sampler.choose, self.sampler.note = failing_choose, failing_note
        take_in = self.writer._take_in

        def failing_take_in(request):
            if self._curse_of(request) == "adding":
                raise self._error(BUG)
            take_in(request)

        self.writer._take_in = failing_take_in

    def __getattr__(self, name):
        return getattr(self.runner, name)

    def _curse_of(self, request):
        """Return the moment at which a request's step is to fail now, or None."""
        moment, tokens = self.cursed.get(request, (None, 0))
        ahead = request.sequence.length + 1 - request.prompt_length  # in a step that is begun early one token more
        return moment if max(request.new_tokens, ahead) >= tokens else None

    def _curse(self):
        """Return the moment at which the present step is to fail because of a request in it, or None."""
        present = [request for request in self.cursed if request.sequence in self._present]
        return next((moment for request in present if (moment := self._curse_of(request))), None)

    def _error(self, kind):
        self.hit += self._present
        return error_of(kind)

    def _raise_late(self, moment):
        if self._late is not None and self._late[0] == moment:
            fault, self._late = self._late, None
            raise self._error(fault[1])

    def _run(self, sequences, run):
        self.steps += 1
        self._present = [sequence for sequence, _ in sequences]
        if self.most is not None and sum(tokens for _, tokens in sequences) > self.most:
            raise self._error(NO_MEMORY)
        moment, kind = self.armed.popleft() if self.armed else (None, None)
        if moment is None and (curse := self._curse()) is not None:
            moment, kind = curse, BUG
        self._late = (moment, kind) if moment in ("choosing", "noted") else None
        if moment == "before":
            raise self._error(kind)
        if moment == "reserved":
            self.runner._reserve(sequences)
            raise self._error(kind)
        scores = run()
        if moment == "within":
            for sequence, tokens in sequences:
                sequence.length -= tokens
        if moment in ("within", "after"):
            raise self._error(kind)
        return scores

    def step(self, chunks):
        return self._run([(c.sequence, len(c.tokens)) for c in chunks], lambda: self.runner.step(chunks))

    def repeat(self, chunks):
        return self._run([(c.sequence, len(c.tokens)) for c in chunks], lambda: self.runner.repeat(chunks))

    def hidden(self, chunks):
        return self._run([(c.sequence, len(c.tokens)) for c in chunks], lambda: self.runner.hidden(chunks))

    def advance(self, sequences, tokens):
        return self._run([(one, 1) for one in sequences], lambda: self.runner.advance(sequences, tokens))
