"""The command line of bench_decode.py."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness.models.shapes import SHAPES, ModelShape
from benchmarks.harness.options import add_files, at_least_one, new_parser
from benchmarks.suites.decode_contenders import NAMES, OURS, PACKINGS, expanded
from bitnet_jit.problem import ACTIVATIONS
from bitnet_jit.system.cores import available_cores

HEADS = ("checkpoint", "int8")


@dataclass(frozen=True)
class Grid:
    """What is measured where the command line does not say.

    Attributes:
        contexts: tokens behind the one that is written.
        batches: texts at a time.
        prompts: tokens of prompts that are read.
        turns: of each contender in a case; of a prefill at most PREFILL_TURNS.
        steps: tokens per text in a turn.
        memory_context: tokens of the prompt by which the peak of memory is measured.
    """

    contexts: tuple[int, ...]
    batches: tuple[int, ...]
    prompts: tuple[int, ...]
    turns: int
    steps: int
    memory_context: int


CPU = Grid((16, 512, 4096), (1, 16), (16, 128, 512), 7, 4, 2048)
CPU_QUICK = Grid((16,), (1,), (16, 64), 3, 4, 64)
GPU = Grid((16, 512, 4096), (1, 16, 64), (16, 128, 512, 2048), 7, 32, 2048)
GPU_QUICK = Grid((512,), (1,), (512,), 3, 16, 512)
PREFILL_TURNS = 3
PROFILED_STEPS = 3
DEFAULT_CONTENDERS = {
    "cpu": ("bitnet_jit", "llama_cpp"),
    "cuda": ("bitnet_jit", "transformers_patched", "transformers_dense"),
}
GROUP_ACTIVATIONS = {"cpu": ("a8g", "a8"), "cuda": ("a16", "a8")}  # where scales are of groups; else a8


@dataclass(frozen=True)
class Options:
    """Options of a run."""

    shape: ModelShape
    device: str
    heads: tuple[str, ...]
    threads: tuple[int, ...]
    contenders: tuple[str, ...]  # of `decode_contenders.CONTENDERS`
    contexts: tuple[int, ...]
    batches: tuple[int, ...]
    prompts: tuple[int, ...]
    turns: int
    steps: int
    memory_context: int
    memory: bool
    start: bool
    save: Path | None
    json: Path | None
    picture: Path | None

    @property
    def most_steps(self) -> int:
        """Return the tokens that are written behind a prompt: a first turn, the timed ones, the profiled ones."""
        return self.steps + len(self.threads) * (self.turns * self.steps + PROFILED_STEPS)

    def decode_cases(self) -> list[tuple[int, int]]:
        """Return (context, batch) of decode: on a CPU, where prompts take long, several texts at the shortest alone."""
        shortest = min(self.contexts)
        return [
            (context, batch)
            for batch in self.batches
            for context in self.contexts
            if batch == 1 or self.device != "cpu" or context == shortest
        ]


def parse(description: str | None, arguments: Sequence[str] | None) -> Options:
    """Return the options of a command line."""
    parser = new_parser(description)
    add, cores = parser.add_argument, available_cores()
    contenders = f"of {', '.join(NAMES)} (default: those that the device can run)"
    activation = "of our contender: a8, a8g or a16; with groups of scales by default a8g and a8, on a GPU a16 and a8"
    add("--shape", choices=SHAPES, default="2b-4t", help=f"of {', '.join(SHAPES)} (default: 2b-4t)")
    add("--device", default="cpu", help='torch\'s word for where to run (default: "cpu")')
    add("--head", nargs="+", choices=HEADS, default=["checkpoint"], help="16 bits as in checkpoints (default), or int8")
    add("--threads", nargs="+", type=at_least_one, default=sorted({1, cores}), metavar="T", help="of the CPU")
    add("--contenders", nargs="+", choices=NAMES, metavar="NAME", help=contenders)
    add("--packing", nargs="+", choices=PACKINGS, default=["i2"], help="of our contender's weights (default: i2)")
    add("--activation", nargs="+", choices=ACTIVATIONS, help=activation)
    add("--context", nargs="+", type=at_least_one, metavar="L", help="tokens behind the one that is written")
    add("--batch", nargs="+", type=at_least_one, metavar="B", help="texts at a time")
    add("--prompt-tokens", nargs="+", type=at_least_one, metavar="T", help="of prompts that are read")
    add("--turns", type=at_least_one, help="of each contender in a case; the least one counts")
    add("--steps", type=at_least_one, help="tokens per text in a turn")
    add("--quick", action="store_true", help="few and short cases: to see that everything works")
    add("--no-memory", action="store_true", help="leave out the peaks of memory, which take a build each")
    add(
        "--start",
        action="store_true",
        help="time the start from files, too, in processes of their own, of which the first one tunes the model",
    )
    add("--save", type=Path, metavar="DIR", help="write the weights there as a checkpoint that bitnet_jit.load reads")
    add_files(parser)
    given = parser.parse_args(arguments)
    quick, full = (CPU_QUICK, CPU) if given.device == "cpu" else (GPU_QUICK, GPU)
    return from_namespace(given, quick if given.quick else full)


def from_namespace(given: argparse.Namespace, grid: Grid) -> Options:
    """Fill up what the command line left out, with what fits the model's context."""
    room = SHAPES[given.shape].open_reader().config.context_length // 2
    contexts, prompts = (tuple(n for n in numbers if n <= room) for numbers in (grid.contexts, grid.prompts))
    shape, kind = SHAPES[given.shape], given.device.partition(":")[0]
    usual = GROUP_ACTIVATIONS.get(kind, ("a8",)) if shape.group_size else ("a8",)
    names = tuple(given.contenders or DEFAULT_CONTENDERS.get(kind, (OURS,)))
    return Options(
        shape=shape,
        device=given.device,
        heads=tuple(given.head),
        threads=tuple(given.threads) if given.device == "cpu" else (max(given.threads),),
        contenders=expanded(names, tuple(given.packing), tuple(given.activation or usual)),
        contexts=tuple(given.context or contexts),
        batches=tuple(given.batch or grid.batches),
        prompts=tuple(given.prompt_tokens or prompts),
        turns=given.turns or grid.turns,
        steps=given.steps or grid.steps,
        memory_context=min(grid.memory_context, room),
        memory=not given.no_memory,
        start=given.start,
        save=given.save,
        json=given.json,
        picture=given.picture,
    )
