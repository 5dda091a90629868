"""Many clients at once: texts of mixed lengths, one after another and together, and together in llama.cpp.

one after another   the engine gets each request when the one before has been answered
together            the engine gets all of them at once
llama_cpp           llama.cpp gets all of them at once, by its batch interface as its server uses it; a cache for each
                    text, and one for all (unified)

Weights are random and the same for all. Every answer of `together` is compared with what the request gets alone. Turns
are interleaved, and the least one counts; before them the engine writes all texts once.
"""

import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress

from benchmarks.harness.models.layers import with_layers
from benchmarks.harness.models.shapes import SHAPES, ModelShape
from benchmarks.harness.models.table import titled
from benchmarks.harness.options import add_files, at_least_one, new_parser
from benchmarks.harness.report import Refusal, Report, header, write
from benchmarks.harness.table import FILE_WIDTH, refused
from benchmarks.providers.models import llama_cpp
from benchmarks.providers.models.llama_load import answer_all, open_places
from benchmarks.providers.models.ours import build_decoder
from benchmarks.suites.clients_picture import draw
from benchmarks.suites.load.lengths import Lengths
from benchmarks.suites.load.options import lengths, whole
from benchmarks.suites.load.plan import Prompts, plan
from bitnet_jit.engine import EngineConfig, InferenceEngine
from bitnet_jit.problem import pages_for
from bitnet_jit.system.cores import available_cores

SERIAL, TOGETHER, PEERS = "one after another", "together", {"llama_cpp": False, "llama_cpp unified": True}
MODEL = "model"
Requests = list[tuple[list[int], int]]  # token ids of a prompt, and how many tokens to write


@dataclass(frozen=True)
class Options:
    """Options of a run."""

    shape: ModelShape
    head: str
    threads: int
    clients: int
    serial: int
    input_len: Lengths
    output_len: Lengths
    turns: int
    peers: bool
    seed: int
    json: Path | None
    picture: Path | None


@dataclass(frozen=True)
class Row:
    """One way to serve the clients.

    Attributes:
        contender: its name.
        clients: requests that it answered.
        new_tokens: of their texts.
        seconds: of the least turn.
        tokens_per_s: new tokens over seconds.
        times_serial: tokens per second over those of one after another.
        same_as_alone: answers that are token for token those of the request alone, of how many compared; None: none.
    """

    contender: str
    clients: int
    new_tokens: int
    seconds: float
    tokens_per_s: float
    times_serial: float | None
    same_as_alone: tuple[int, int] | None


def parse(description: str | None, arguments: Sequence[str] | None) -> Options:
    """Return the options of a command line."""
    parser = new_parser(description)
    add = parser.add_argument
    add("--shape", choices=SHAPES, default="2b-4t", help=f"of {', '.join(SHAPES)} (default: 2b-4t)")
    add("--layers", type=at_least_one, metavar="N", help="fewer layers than the shape has, to save time")
    add("--head", choices=("checkpoint", "int8"), default="int8", help="16 bits as in checkpoints, or int8 (default)")
    add("--threads", type=at_least_one, default=available_cores(), metavar="T", help="of the CPU (default: all)")
    add("--clients", type=at_least_one, default=64, metavar="N", help="requests at once (default: 64)")
    serial = "of them that are served one after another, and compared (default: all)"
    add("--serial", type=at_least_one, metavar="N", help=serial)
    add("--input-len", type=lengths, default="uniform:16:256", help="tokens of prompts (default: uniform:16:256)")
    add("--output-len", type=lengths, default="uniform:16:96", help="new tokens (default: uniform:16:96)")
    add("--turns", type=at_least_one, default=2, help="of each contender (default: 2)")
    add("--no-peers", action="store_true", help="leave llama.cpp out")
    add("--seed", type=whole, default=0, help="of prompts and lengths (default: 0)")
    add_files(parser)
    given = parser.parse_args(arguments)
    return Options(
        shape=with_layers(SHAPES[given.shape], given.layers),
        head=given.head,
        threads=given.threads,
        clients=given.clients,
        serial=min(given.serial or given.clients, given.clients),
        input_len=given.input_len,
        output_len=given.output_len,
        turns=given.turns,
        peers=not given.no_peers,
        seed=given.seed,
        json=given.json,
        picture=given.picture,
    )


def draw_requests(options: Options) -> Requests:
    """Draw the requests of all clients."""
    vocab_size = options.shape.open_reader().config.vocab_size
    prompts = Prompts(options.input_len, options.output_len, vocab_size=vocab_size)
    planned = plan(prompts, options.clients, np.inf, 1.0, options.seed)
    return [(list(each.prompt), each.max_tokens) for each in planned]


class Run:
    """The contenders of a run, and the least time of each.

    Attributes:
        answers: of each contender, as new tokens per request.
    """

    def __init__(self, options: Options, say: Callable[[str], object]) -> None:
        self.options, self.say = options, say
        self.requests = draw_requests(options)
        self.longest = max(len(prompt) + limit for prompt, limit in self.requests) + 1
        self.seconds: dict[str, float] = {}
        self.answers: dict[str, list[list[int]]] = {}
        self.refusals: list[Refusal] = []

    def run_all(self) -> None:
        """Build the contenders, and have them take turns."""
        options = self.options
        torch.set_num_threads(options.threads)
        pages = options.clients * pages_for(self.longest)
        config = EngineConfig(max_running=options.clients, num_pages=pages, prefix_cache=False)
        with InferenceEngine(config) as engine:
            self.say("builds the decoder")
            engine.add_model(MODEL, build_decoder(options.shape, "cpu", options.head))
            peer = self.build_peer() if options.peers else None
            self.say("warms up")
            self.together(engine)
            for turn in range(options.turns):
                self.time(TOGETHER, turn, lambda: self.together(engine))
                self.time(SERIAL, turn, lambda: self.one_after_another(engine))
                for name, unified in PEERS.items() if peer else ():
                    open_places(peer, options.clients, self.longest, unified)
                    self.time(name, turn, lambda: answer_all(peer, self.requests, options.clients))
            if peer:
                peer.close()

    def build_peer(self) -> llama_cpp.LlamaModel | None:
        """Return llama.cpp's model; None, with the reason among the refusals, where it cannot take part."""
        self.say("writes the weights for llama.cpp")
        try:
            peer = llama_cpp.prepare("llama_cpp", self.options.shape, "cpu", self.options.head)()
        except (ValueError, MemoryError) as error:
            self.refusals.append(Refusal(self.options.shape.title, "llama_cpp", str(error)))
            return None
        peer.set_threads(self.options.threads)
        return peer

    def together(self, engine: InferenceEngine) -> list[list[int]]:
        """Ask for all texts at once."""
        handles = [engine.submit(MODEL, prompt, limit) for prompt, limit in self.requests]
        return [handle.result().tokens for handle in handles]

    def one_after_another(self, engine: InferenceEngine) -> list[list[int]]:
        """Ask for each text when the one before is there."""
        some = self.requests[: self.options.serial]
        return [engine.submit(MODEL, prompt, limit).result().tokens for prompt, limit in some]

    def time(self, name: str, turn: int, serve: Callable[[], list[list[int]]]) -> None:
        """Time a turn of a contender; RuntimeError where a text has not the length that was asked."""
        self.say(f"turn {turn + 1}: {name}")
        start = time.perf_counter()
        answers = self.answers[name] = serve()
        seconds = time.perf_counter() - start
        self.seconds[name] = min(seconds, self.seconds.get(name, seconds))
        wrong = [number for number, answer in enumerate(answers) if len(answer) != self.requests[number][1]]
        if wrong:
            raise RuntimeError(f"{name}: the texts of requests {wrong} are too long or too short")

    def rows(self) -> list[Row]:
        """Return the figures of the contenders that took part."""
        rates = {name: sum(map(len, self.answers[name])) / self.seconds[name] for name in self.seconds}
        serial = rates.get(SERIAL)
        return [
            Row(
                contender=name,
                clients=len(self.answers[name]),
                new_tokens=sum(map(len, self.answers[name])),
                seconds=self.seconds[name],
                tokens_per_s=rate,
                times_serial=rate / serial if serial else None,
                same_as_alone=self.compared() if name == TOGETHER and serial else None,
            )
            for name, rate in rates.items()
        ]

    def compared(self) -> tuple[int, int]:
        """Return how many answers are those of the requests alone, and how many were compared."""
        pairs = list(zip(self.answers[TOGETHER], self.answers[SERIAL], strict=False))
        return sum(together == alone for together, alone in pairs), len(pairs)


def print_rows(rows: Sequence[Row], refusals: Sequence[Refusal], title: str) -> None:
    """Print the figures, and how many times as fast `together` is."""
    console = Console(width=None if sys.stdout.isatty() else FILE_WIDTH)
    columns = ("contender", "clients", "tokens", "s", "tok/s", "times serial", "same as alone")
    lines = [
        (
            row.contender,
            str(row.clients),
            str(row.new_tokens),
            f"{row.seconds:.2f}",
            f"{row.tokens_per_s:.1f}",
            "" if row.times_serial is None else f"{row.times_serial:.2f}x",
            "" if row.same_as_alone is None else "{} of {}".format(*row.same_as_alone),
        )
        for row in rows
    ]
    console.print(titled(title, columns, lines))
    rates = {row.contender: row.tokens_per_s for row in rows}
    peers = [rates[name] for name in PEERS if name in rates]
    if peers and TOGETHER in rates:
        console.print(f"together: {rates[TOGETHER] / max(peers):.2f}x the faster one of llama.cpp", highlight=False)
    for refusal in refusals:
        console.print(refused(refusal))


def run(arguments: Sequence[str] | None = None) -> Report[Row]:
    """Measure, print and write; an interrupt ends the measuring alone."""
    options = parse(__doc__, arguments)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=None)
        measured = Run(options, lambda words: progress.update(task, description=words))
        try:
            measured.run_all()
        except KeyboardInterrupt:
            print("interrupted: what follows is what there was so far", file=sys.stderr)
    rows = measured.rows()
    facts = {"command": shlex.join(sys.argv), "model": options.shape.title, "head": options.head}
    facts |= {"threads": options.threads, "input_len": options.input_len.words, "output_len": options.output_len.words}
    report = Report(header(**facts), tuple(rows), tuple(measured.refusals))
    print_rows(rows, measured.refusals, f"{options.shape.title}, head {options.head}, {options.threads} threads")
    if options.json:
        write(report, options.json)
    if options.picture:
        draw([(row.contender, row.tokens_per_s) for row in rows], report.header, options.picture)
    return report
