"""Imports of layers: modules import modules, not the package `nn`, and their chains inside it are short."""

import ast
from functools import cache
from pathlib import Path

import pytest

import bitnet_jit

ROOT = Path(bitnet_jit.__file__).parent
PACKAGE = "bitnet_jit.nn"
MAX_DEPTH = 4  # modules in a chain of imports
MODULES = {f"{PACKAGE}.{path.stem}": path for path in sorted((ROOT / "nn").glob("*.py")) if path.stem != "__init__"}


def imports(path: Path) -> set[str]:
    """Return the names that a file imports, anywhere in it, as module.name and as module."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return names


@cache
def depth(module: str) -> int:
    """Return the number of modules in the longest chain of imports inside `nn` that begins at a module."""
    return 1 + max((depth(name) for name in imports(MODULES[module]) & MODULES.keys()), default=0)


@pytest.mark.parametrize("module", MODULES)
def test_chains_of_imports_are_short(module):
    assert depth(module) <= MAX_DEPTH


def test_modules_import_layers_from_their_modules():
    offenders = {}
    for path in sorted(ROOT.rglob("*.py")):
        names = {name for name in imports(path) if name.rpartition(".")[0] == PACKAGE} - MODULES.keys()
        if names and path != ROOT / "nn" / "__init__.py":
            offenders[str(path.relative_to(ROOT))] = sorted(names)
    assert offenders == {}


def test_the_package_lists_the_public_names():
    import bitnet_jit.nn as package

    assert sorted(package.__all__) == package.__all__
    for name in package.__all__:
        assert getattr(package, name).__module__ in MODULES
