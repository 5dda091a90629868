"""The command line of bench_engine_text.py."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness.models.layers import with_layers
from benchmarks.harness.models.shapes import SHAPES, ModelShape
from benchmarks.harness.options import add_files, at_least_one, new_parser
from bitnet_jit.system.cores import available_cores

PARTS = ("bare", "stall", "prefix")


@dataclass(frozen=True)
class Options:
    """Options of a run.

    Attributes:
        parts: of PARTS.
        batches: texts at a time, where the engine is compared with the runner alone.
        prompt, steps: tokens of their prompts, and new ones.
        streams: texts that run when the long prompt comes.
        long_prompt, prefix: tokens.
        turns: of each measurement; the best one counts.
    """

    shape: ModelShape
    device: str
    head: str
    threads: int
    parts: tuple[str, ...]
    batches: tuple[int, ...]
    prompt: int
    steps: int
    streams: int
    long_prompt: int
    prefix: int
    turns: int
    json: Path | None
    picture: Path | None


def parse(description: str | None, arguments: Sequence[str] | None) -> Options:
    """Return the options of a command line."""
    parser = new_parser(description)
    add = parser.add_argument
    add("--shape", choices=SHAPES, default="2b-4t", help=f"of {', '.join(SHAPES)} (default: 2b-4t)")
    add("--layers", type=at_least_one, metavar="N", help="fewer layers than the shape has, to save time")
    add("--device", default="cpu", help='torch\'s word for where to run (default: "cpu")')
    add("--head", choices=("checkpoint", "int8"), default="int8", help="16 bits as in checkpoints, or int8 (default)")
    add("--threads", type=at_least_one, default=available_cores(), metavar="T", help="of the CPU (default: all)")
    add("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="default: all")
    add("--batch", nargs="+", type=at_least_one, default=[16, 64], metavar="B", help="texts (default: 16 64)")
    add("--prompt-tokens", type=at_least_one, default=32, metavar="T", help="of those texts (default: 32)")
    add("--steps", type=at_least_one, default=40, metavar="N", help="new tokens of each (default: 40)")
    add("--streams", type=at_least_one, default=16, metavar="N", help="texts beside the long prompt (default: 16)")
    add("--long-prompt", type=at_least_one, default=4000, metavar="T", help="its tokens (default: 4000)")
    add("--prefix", type=at_least_one, default=2000, metavar="T", help="tokens that are cached (default: 2000)")
    add("--turns", type=at_least_one, default=3, help="of each measurement (default: 3)")
    add_files(parser)
    given = parser.parse_args(arguments)
    return Options(
        shape=with_layers(SHAPES[given.shape], given.layers),
        device=given.device,
        head=given.head,
        threads=given.threads,
        parts=tuple(given.parts),
        batches=tuple(given.batch),
        prompt=given.prompt_tokens,
        steps=given.steps,
        streams=given.streams,
        long_prompt=given.long_prompt,
        prefix=given.prefix,
        turns=given.turns,
        json=given.json,
        picture=given.picture,
    )
