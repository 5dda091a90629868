"""The command line of load_server.py; names are those of `vllm bench serve` where it has such an option."""

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness.options import add_files, at_least_one, new_parser, positive
from benchmarks.suites.load.figures import GOALS
from benchmarks.suites.load.lengths import FORMS, Lengths, parse_lengths
from benchmarks.suites.load.plan import Prompts

IGNORE_EOS = (
    "have texts go on behind the end token, as long as asked; for servers that know it, such as this one and vLLM"
)


@dataclass(frozen=True)
class Options:
    """Options of a run."""

    base_url: str
    endpoint: str
    model: str | None
    prompts: Prompts
    num_prompts: int
    num_warmups: int
    request_rates: tuple[float, ...]
    burstiness: float
    concurrencies: tuple[int | None, ...]
    temperature: float
    ignore_eos: bool
    goals_ms: dict[str, float]
    timeout_s: float
    seed: int
    json: Path | None
    picture: Path | None

    @property
    def loads(self) -> list[tuple[float, int | None]]:
        """Return (rate, concurrency) of each load."""
        return [(rate, number) for rate in self.request_rates for number in self.concurrencies]


def lengths(text: str) -> Lengths:
    try:
        return parse_lengths(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def rate(text: str) -> float:
    return math.inf if text == "inf" else positive(text)


def whole(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 on, got {text!r}")
    return int(text)


def not_negative(text: str) -> float:
    return 0.0 if text in ("0", "0.0") else positive(text)


def goal(text: str) -> tuple[str, float]:
    name, _, limit = text.partition(":")
    if name not in GOALS:
        raise argparse.ArgumentTypeError(
            f"expected {', '.join(GOALS)} with a limit in ms such as ttft:500, got {text!r}"
        )
    return name, positive(limit)


def parse(description: str | None, arguments: Sequence[str] | None) -> Options:
    """Return the options of a command line."""
    parser = new_parser(description)
    add = parser.add_argument
    add("--base-url", default="http://127.0.0.1:8000", metavar="URL", help="of the server (default: %(default)s)")
    add("--endpoint", default="/v1/completions", metavar="PATH", help="default: %(default)s")
    add("--model", metavar="NAME", help="as the server calls it (default: the first one that it lists)")
    add("--num-prompts", type=at_least_one, default=100, metavar="N", help="requests of a load (default: 100)")
    add("--num-warmups", type=whole, default=8, metavar="N", help="requests before, which do not count (default: 8)")
    add_times(parser)
    add_lengths(parser)
    add("--temperature", type=not_negative, default=0.0, help="default: 0")
    add("--ignore-eos", action="store_true", help=IGNORE_EOS)
    add("--goodput", nargs="+", type=goal, default=[], metavar="NAME:MS", help=f"goals: {', '.join(GOALS)}")
    add("--timeout", type=positive, default=600.0, metavar="S", help="seconds without a byte (default: 600)")
    add("--seed", type=whole, default=0, help="of times, lengths and prompts (default: 0)")
    add_files(parser)
    return from_namespace(parser.parse_args(arguments))


def add_times(parser: argparse.ArgumentParser) -> None:
    """Add the options that say when requests come."""
    add = parser.add_argument
    rates = "requests per second, several for a load each (default: inf, all at once)"
    shape = "of the pauses' gamma distribution: 1 is Poisson (default), less comes in bursts"
    clients = "requests open at a time at most; with --request-rate inf, so many clients in a closed loop"
    add("--request-rate", nargs="+", type=rate, default=[math.inf], metavar="R", help=rates)
    add("--burstiness", type=positive, default=1.0, metavar="B", help=shape)
    add("--max-concurrency", "--concurrency", nargs="+", type=at_least_one, metavar="N", help=clients)


def add_lengths(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what requests hold."""
    add = parser.add_argument
    ban = "of tokens that no text may have, such as the end token's, so that texts have the length that was asked"
    add("--input-len", type=lengths, default="uniform:16:256", metavar="L", help=f"tokens of a prompt: {FORMS}")
    add("--output-len", type=lengths, default="uniform:16:96", metavar="L", help="new tokens, likewise")
    add("--prefix-len", type=whole, default=0, metavar="N", help="tokens that all prompts begin with (default: 0)")
    add("--vocab-size", type=at_least_one, default=256, metavar="N", help="prompts are ids below it (default: 256)")
    add("--ban-token", nargs="+", type=whole, default=[], metavar="ID", help=ban)


def from_namespace(given: argparse.Namespace) -> Options:
    """Return the options that argparse read."""
    prompts = Prompts(given.input_len, given.output_len, given.prefix_len, given.vocab_size, tuple(given.ban_token))
    if not set(range(given.vocab_size)) - set(given.ban_token):
        raise SystemExit("--ban-token: every token below --vocab-size is banned")
    return Options(
        base_url=given.base_url,
        endpoint=given.endpoint,
        model=given.model,
        prompts=prompts,
        num_prompts=given.num_prompts,
        num_warmups=given.num_warmups,
        request_rates=tuple(given.request_rate),
        burstiness=given.burstiness,
        concurrencies=tuple(given.max_concurrency or [None]),
        temperature=given.temperature,
        ignore_eos=given.ignore_eos,
        goals_ms=dict(given.goodput),
        timeout_s=given.timeout,
        seed=given.seed,
        json=given.json,
        picture=given.picture,
    )
