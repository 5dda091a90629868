"""A whole model: reading a prompt (prefill) and writing one token after another (decode), in tokens per second.

`rows` are tokens: of the prompt, or of the continuation. Beside bitnet_jit.load stands the same checkpoint in
transformers, in float32. Their logits are compared first; int8 codes that flip on a last-bit difference move later
ones, so that a few hundredths are allowed.
"""

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch

import bitnet_jit
from benchmarks.harness import limits
from benchmarks.harness.contender import Contender
from benchmarks.harness.options import add_files, at_least_one, new_parser, positive
from benchmarks.harness.picture import draw
from benchmarks.harness.report import Case, Refusal, Report, Row, best_rates, header, make_row, write
from benchmarks.harness.table import print_report
from benchmarks.harness.timing import measure
from bitnet_jit.checkpoints.embedded import embedded_model
from bitnet_jit.system.cores import available_cores

PROMPT_TOKENS = 16  # of the prompt, where tokens are written
TOLERANCE = 0.05  # relative, of the logits in the Frobenius norm


@dataclass(frozen=True)
class Model:
    """A loaded model.

    Attributes:
        prefill: ids (1, T) -> logits (1, T, vocab).
        decode: (ids (1, T), new tokens) -> ids (1, T + new).
    """

    name: str
    prefill: Callable[[torch.Tensor], torch.Tensor]
    decode: Callable[[torch.Tensor, int], torch.Tensor]
    num_bytes: int


def load_ours(path: Path) -> Model:
    decoder = bitnet_jit.load(path)
    return Model("bitnet_jit", decoder, lambda ids, new: decoder.generate(ids, max_new_tokens=new), size_of(decoder))


def load_transformers(path: Path) -> Model:
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    # layers of packed weights unpack to bfloat16 whatever dtype says, and model.float() refuses
    torch.nn.Module.float(model).eval()

    def decode(ids: torch.Tensor, new: int) -> torch.Tensor:
        return model.generate(ids, max_new_tokens=new, min_new_tokens=new, do_sample=False)

    return Model("transformers", lambda ids: model(ids).logits, decode, size_of(model))


LOADERS = {"bitnet_jit": load_ours, "transformers": load_transformers}
INSTALLED = [name for name in LOADERS if find_spec(name)]


def size_of(module: torch.nn.Module) -> int:
    """Sum the bytes of all parameters and buffers."""
    tensors = [*module.parameters(), *module.buffers()]
    return sum({tensor.data_ptr(): tensor.nbytes for tensor in tensors}.values())


def tokens(count: int) -> torch.Tensor:
    """Draw token ids (1, count) that every vocabulary has."""
    return torch.randint(32, 127, (1, count), generator=torch.Generator().manual_seed(0))


def wrong_reason(model: Model, expected: torch.Tensor) -> str | None:
    """Return None where the logits are as near to the expected ones as int8 activations can be, else the words."""
    logits = model.prefill(tokens(64)).float()
    error = ((logits - expected).norm() / expected.norm()).item()
    return None if error <= TOLERANCE else f"wrong logits: relative error {error:.2g}, at most {TOLERANCE} is allowed"


def contenders(models: Sequence[Model], op: str, count: int) -> list[Contender]:
    """Return the models as contenders at reading or writing `count` tokens."""

    def contender(model: Model) -> Contender:
        ids = tokens(count if op == "prefill" else PROMPT_TOKENS)
        run = (lambda _: model.prefill(ids)) if op == "prefill" else (lambda _: model.decode(ids, count))
        passes = 1 if op == "prefill" else count
        return Contender(model.name, run, lambda: ids.numpy(), passes * model.num_bytes, 0, torch.set_num_threads)

    return [contender(model) for model in models]


def measure_all(models: Sequence[Model], given: argparse.Namespace) -> list[Row]:
    rows = []
    for op, counts in (("prefill", given.prompt_tokens), ("decode", given.new_tokens)):
        for count in counts:
            for threads in given.threads:
                everyone = contenders(models, op, count)
                everyone += limits.readers(models[0].num_bytes, models[0].num_bytes)
                times = measure(everyone, given.seconds, threads)
                case = Case(op, given.model.name, count, threads, "hot")
                rates = best_rates(everyone, times)
                rows += [make_row(case, contender, times[contender.name], rates) for contender in everyone]
    return rows


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = new_parser(__doc__)
    add = parser.add_argument
    add("--model", type=Path, default=embedded_model(), metavar="DIR", help="default: the one in the package")
    add("--prompt-tokens", nargs="+", type=at_least_one, default=[1, 128, 512], metavar="T", help="default: 1 128 512")
    add("--new-tokens", nargs="+", type=at_least_one, default=[64], metavar="T", help="default: 64")
    add("--threads", nargs="+", type=at_least_one, default=sorted({1, available_cores()}), metavar="T")
    known = f"of {', '.join(LOADERS)}"
    add("--providers", nargs="+", choices=LOADERS, default=INSTALLED, metavar="NAME", help=known)
    add("--seconds", type=positive, default=0.5, help="per contender of a case (default: 0.5)")
    add_files(parser)
    return parser.parse_args(arguments)


def run(arguments: Sequence[str] | None = None) -> Report:
    """Measure, print, and write the files that the command line asks for."""
    given = parse(arguments)
    models = {name: LOADERS[name](given.model) for name in given.providers}
    with torch.inference_mode():
        expected = next(reversed(models.values())).prefill(tokens(64)).float()
        reasons = {name: wrong_reason(model, expected) for name, model in models.items()}
        rows = measure_all([model for name, model in models.items() if reasons[name] is None], given)
    refusals = tuple(
        Refusal(f"{given.model.name}, 64 rows", name, reason) for name, reason in reasons.items() if reason
    )
    report = Report(header(command=shlex.join(sys.argv), device="cpu"), tuple(rows), refusals)
    print_report(report)
    if given.json:
        write(report, given.json)
    if given.picture:
        draw(report, given.picture)
    return report
