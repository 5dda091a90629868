"""The process of one worker: it loads the model onto its device, and writes the texts that an engine asks for.

`process.py` alone starts it, by `python -m`. Messages come from stdin: `Start` once, then `Terms`, `Cancel`, `Share`
and `Stop`. Answers go to stdout, each an `Update`, with `Ready` or `Failed` first. What libraries print goes to stderr.
It ends when stdin does, or when the engine's process is gone: that leaves nothing behind.
"""

import logging
import os
import signal
import sys
import time
import warnings
from threading import Thread
from typing import Any, NoReturn, cast

from bitnet_jit.checkpoints.checksum import stamp_of
from bitnet_jit.checkpoints.loading import load
from bitnet_jit.engine.grammar.grammar import Grammars
from bitnet_jit.engine.models.model import num_pages, weight_count
from bitnet_jit.engine.models.preparing import tune
from bitnet_jit.engine.models.usage import weight_bytes
from bitnet_jit.engine.text.delivery import finish
from bitnet_jit.engine.text.processes.channel import Channel
from bitnet_jit.engine.text.processes.messages import (
    Cancel,
    Failed,
    Ready,
    Share,
    Start,
    Stop,
    Terms,
)
from bitnet_jit.engine.text.processes.outlet import Handle, Outlet, Records, portable
from bitnet_jit.engine.text.processes.sent_replica import Engine, SentReplica
from bitnet_jit.engine.text.request import Request
from bitnet_jit.errors import BitNetError, CheckpointError, RequestFailed
from bitnet_jit.generation.decoder import Decoder
from bitnet_jit.generation.ngram import NGrams
from bitnet_jit.generation.stopping import stop_rules
from bitnet_jit.models.pooling import Pool
from bitnet_jit.system.garbage import freeze

LOOK_S = 1.0  # between two looks whether the engine's process is there


class Child:
    """A worker and its engine.

    Args:
        start: what to load.
        channel: to the engine.
        outlet: of the same channel.
    """

    def __init__(self, start: Start, channel: Channel, outlet: Outlet) -> None:
        self._channel, self._outlet = channel, outlet
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            decoder = load_checked(start)
        if start.config.optimization_level.prepares:
            tune([decoder], start.config)
        self._decoder, self._grammars = decoder, Grammars(decoder)
        pages = num_pages(decoder, start.config, start.sharing)
        self._engine = Engine(outlet, start.has_others)
        self._replica = SentReplica(outlet, decoder, start.config, pages, start.name, self._engine)
        outlet.stats = self._replica.stats
        told = tuple(one.message for one in caught if isinstance(one.message, Warning))
        outlet.put(
            Ready(
                self._replica.num_pages,
                self._replica.cache_bytes,
                weight_bytes(decoder),
                weight_count(decoder),
                tuple(one for one in told if portable(one) is one),
            )
        )

    def serve(self) -> NoReturn:
        """Do what comes, until nothing will come any more."""
        while True:
            try:
                message = self._channel.receive()
            except EOFError:
                leave(0)
            self.take(message)

    def take(self, message: Any) -> None:
        """Do what a message asks for."""
        if isinstance(message, Terms):
            self._begin(message)
        elif isinstance(message, Cancel):
            if (request := self._engine.open.get(message.number)) is not None:
                request.cancel()
        elif isinstance(message, Share):
            self._engine.shares = True
        elif isinstance(message, Stop):
            Thread(target=self._stop, args=(message.reason,), daemon=True).start()

    def _begin(self, terms: Terms) -> None:
        """Take a request."""
        handle = Handle(terms.number, self._outlet, lambda: request.cached)
        request = request_of(terms, self._decoder, handle)
        request.ended = lambda: self._forget(request)
        self._engine.open[terms.number] = request
        if terms.grammar is None:
            self._adopt(request)
        else:  # others do not wait until it has been compiled
            Thread(target=self._compile, args=(request,), daemon=True).start()

    def _compile(self, request: Request) -> None:
        """Take a request behind its grammar, which knows the tokens that are there."""
        try:
            assert request.grammar is not None
            request.matcher = self._grammars.matcher(request.grammar)
            for token in request.ids[request.prompt_length :]:
                request.matcher.take(token)
        except Exception as error:
            finish(request, "", error if isinstance(error, BitNetError) else RequestFailed(repr(error)))
            self._outlet.taken += 1
            self._outlet.flush()
        else:
            self._adopt(request)

    def _adopt(self, request: Request) -> None:
        """Hand a request to the worker, or back where that has ended."""
        if not self._replica.adopt(request):
            self._engine.adopt(request)
        self._outlet.taken += 1

    def _forget(self, request: Request) -> None:
        """Note that a request has ended."""
        self._engine.open.pop(request.number, None)

    def _stop(self, reason: str) -> None:
        """Write what was taken to its end, and end the process."""
        self._replica.close(reason)
        self._outlet.finish()
        leave(0)


def request_of(terms: Terms, decoder: Decoder, handle: Handle) -> Request:
    """Return a request by its terms; its stop rule knows the tokens that are there."""
    config, prompt = decoder.config, terms.ids[: terms.prompt_length]
    ends = () if terms.ignore_eos else config.eos_ids
    (rule,) = stop_rules(terms.stop, ends, decoder.tokenizer, [prompt], config.vocab_size)
    for token in terms.ids[terms.prompt_length :]:
        rule.ends_with(token)
    return Request(
        terms.ids,
        terms.prompt_length,
        terms.limit,
        rule,
        terms.options,
        cast(Any, handle),
        terms.arrived,
        deadline=terms.deadline,
        priority=terms.priority,
        client=terms.client,
        number=terms.number,
        cached=terms.cached,
        ngrams=NGrams() if terms.speculates else None,
        prompt_logprobs=terms.prompt_logprobs,
        grammar=terms.grammar,
        pool=None if terms.pooling is None else Pool(terms.pooling),
        stop=terms.stop,
    )


def load_checked(start: Start) -> Decoder:
    """Load the model. Raises CheckpointError where its files are not those that the engine knows."""
    decoder = load(start.path, start.device, start.dtype, head=start.head, cache=start.cache, i2_s=start.i2_s)
    if stamp_of(start.path) != start.stamp:
        raise CheckpointError(f"{start.path}: its files were written to since the model was loaded; load it again")
    return decoder


def leave(code: int) -> NoReturn:
    """End this process: without what Python does at its end, which asks a device that may have failed."""
    sys.stderr.flush()
    os._exit(code)


def take_pipes() -> Channel:
    """Return the channel to the engine; nothing else in this process, nor what it starts, reads or writes there."""
    channel = Channel(os.fdopen(os.dup(sys.stdin.fileno()), "rb"), os.fdopen(os.dup(sys.stdout.fileno()), "wb"))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, sys.stdin.fileno())
    os.close(nothing)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print is no answer
    return channel


def prepare(start: Start, outlet: Outlet) -> None:
    """Have log records sent that the engine's logging would take."""
    logging.getLogger().addHandler(Records(outlet, start.log_level))
    logging.getLogger("bitnet_jit").setLevel(start.log_level)


def end_with_parent() -> None:
    """End this process once the engine's has ended: one that was forked from that may hold stdin open."""
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(LOOK_S)
    leave(0)


def main() -> None:
    """Serve one engine."""
    channel = take_pipes()
    Thread(target=end_with_parent, name="bitnet-jit parent", daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the engine, which decides
    outlet = Outlet(channel)
    try:
        start = channel.receive()
    except EOFError:
        leave(0)
    try:
        prepare(start, outlet)
        child = Child(start, channel, outlet)
    except Exception as error:
        outlet.put(Failed(portable(error)))
        outlet.finish()
        leave(1)
    freeze()
    child.serve()


if __name__ == "__main__":
    main()
