"""The folders of the Numba backend import one another in one direction."""

import re
from pathlib import Path

import pytest

from bitnet_jit.kernels import numba

ROOT = Path(numba.__file__).parent
IMPORT = re.compile(r"^\s*from bitnet_jit\.kernels\.numba\.(\w+)", re.MULTILINE)
BELOW: dict[str, set[str]] = {  # folder or module -> the others that its files may import
    "bound": set(),
    "intrinsics": set(),
    "compiler": {"intrinsics"},
    "threads": {"compiler", "intrinsics"},
    "layout": {"intrinsics"},
    "peaks": {"intrinsics"},
    "arrays": {"bound", "threads"},
    "tensors": {"bound", "threads"},
    "limits": {"peaks", "intrinsics"},
    "attention": {"bound", "compiler", "intrinsics", "threads", "rowwise"},
    "delta_net": {"bound", "compiler", "intrinsics", "threads"},
    "rowwise": {"bound", "compiler", "intrinsics", "threads", "layout"},
    "weights": {"bound", "compiler", "intrinsics", "threads", "layout"},
    "linear": {"bound", "compiler", "intrinsics", "threads", "layout", "rowwise"},
    "head": {"bound", "compiler", "intrinsics", "threads", "rowwise", "linear"},
}


@pytest.mark.parametrize("name", BELOW)
def test_a_folder_imports_only_those_below(name):
    files = [*ROOT.glob(f"{name}.py"), *(ROOT / name).glob("*.py")]
    imported = {part for file in files for part in IMPORT.findall(file.read_text())}
    assert files
    assert imported - {name} <= BELOW[name]


def test_every_folder_has_its_place():
    parts = {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or list(path.glob("*.py"))}
    assert parts - {"__init__"} == set(BELOW)
