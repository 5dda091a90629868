"""Words that a stranger reads at once: docstrings begin with a verb, results are named by what they are."""

import ast
import re
from pathlib import Path

import pytest

import bitnet_jit

ROOT = Path(bitnet_jit.__file__).parent
FILES = [*sorted(ROOT.rglob("*.py")), *sorted((ROOT.parent / "benchmarks").rglob("*.py"))]
TESTS = sorted((ROOT.parent / "tests").rglob("*.py"))
NO_VERB = re.compile(
    "a|all|an|at|by|each|every|for|from|how|in|its|of|on|one|that|the|this|those|to|two|what|when|where|whether|which|"
    "who|why|with|without"
)
VERBS_IN_S = ("Pass", "Process", "Compress", "Press", "Access", "Cross", "Guess")
NAMELESS = {"found", "own", "those"}
OLD_WORDS = re.compile(r"\b(MOST|LEAST|FEWEST)_|\bwhy_not|\bregister of (kernels|backends)\b|\bmade_up\b|\bceilings?\b")


def functions(path):
    """Return the functions of a file."""
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT.parent)))
def test_docstrings_of_functions_begin_with_a_verb(path):
    for function in functions(path):
        if docstring := ast.get_docstring(function):
            first = docstring.split()[0].rstrip(".,:;")
            assert re.fullmatch("[A-Z][a-z]+", first), f"{function.name}: {docstring.splitlines()[0]}"
            assert not NO_VERB.fullmatch(first.lower()), f"{function.name}: {docstring.splitlines()[0]}"
            assert not first.endswith("s") or first in VERBS_IN_S, f"{function.name}: {docstring.splitlines()[0]}"


@pytest.mark.parametrize("path", [*FILES, *TESTS], ids=lambda path: str(path.relative_to(ROOT.parent)))
def test_results_are_named_by_what_they_are(path):
    nodes = list(ast.walk(ast.parse(path.read_text())))
    stored = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    assert not stored & NAMELESS
    assert not {node.arg for node in nodes if isinstance(node, ast.arg)} & NAMELESS
    assert path in TESTS or not OLD_WORDS.search(path.read_text())
