"""The public names as type checkers see them: none is Any, and the list for type checkers is the one that runs."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import bitnet_jit

pytest.importorskip("mypy", reason="mypy reads the types")

ROOT = Path(__file__).parents[1]
SIGNATURES = {  # an expression -> parts of its type
    "bitnet_jit.load": ("path: str | ", "-> bitnet_jit.generation.decoder.Decoder"),
    "bitnet_jit.save": ("model: torch.nn.modules.module.Module", "directory: str | ", "format: str"),
    "bitnet_jit.autotune": ("Sequence[tuple[int, int]]", "effort: str", "-> bitnet_jit.tuning.report.Report"),
    "bitnet_jit.BitLinear(8, 4).pack()": ("bitnet_jit.nn.packed_bit_linear.PackedBitLinear",),
    "bitnet_jit.load().generate": ("max_new_tokens: int", "-> torch._tensor.Tensor"),
    "bitnet_jit.convert(torch.nn.Sequential())": ("torch.nn.modules.container.Sequential",),
    "bitnet_jit.stream_text": ("prompt: str", "stop: int | str | typing.Iterable[int | str]", "Iterator[str]"),
    "bitnet_jit.embedded_model()": ("pathlib.Path",),
}


@pytest.fixture(scope="module")
def revealed(tmp_path_factory) -> dict[str, str]:
    """Return the type that mypy sees of each public name and of each expression of SIGNATURES."""
    expressions = [f"bitnet_jit.{name}" for name in bitnet_jit.__all__] + list(SIGNATURES)
    code = "import torch, bitnet_jit\n" + "".join(f"reveal_type({expression})\n" for expression in expressions)
    file = tmp_path_factory.mktemp("types") / "reveal.py"
    file.write_text(code)
    run = subprocess.run([sys.executable, "-m", "mypy", "--no-pretty", file], cwd=ROOT, capture_output=True, text=True)
    notes = [line for line in run.stdout.splitlines() if "Revealed type is" in line]
    assert len(notes) == len(expressions), run.stdout + run.stderr
    return dict(zip(expressions, (note.partition('Revealed type is "')[2].rstrip('"') for note in notes), strict=True))


@pytest.mark.parametrize("name", bitnet_jit.__all__)
def test_no_public_name_is_any(revealed, name):
    kind = revealed[f"bitnet_jit.{name}"]
    assert kind
    assert not re.search(r"\bAny\b", kind), "nor is any argument"


@pytest.mark.parametrize("expression", SIGNATURES)
def test_signatures_are_seen_in_full(revealed, expression):
    for part in SIGNATURES[expression]:
        assert part in revealed[expression]


def test_type_checkers_read_the_names_that_are_imported_lazily():
    """Compare the two lists: a name in one alone, or from another module, would be Any or of a wrong type."""
    tree = ast.parse((ROOT / "bitnet_jit" / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    imported = {alias.asname: (node.module, alias.name) for node in block.body for alias in node.names}
    assert imported == {name: (home, name) for name, home in bitnet_jit._HOMES.items()}
