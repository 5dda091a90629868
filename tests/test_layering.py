"""Imports go down only. The order of the layers is read from LAYERS, the imports from the sources' syntax trees."""

import ast
from pathlib import Path

import pytest

import bitnet_jit

ROOT = Path(bitnet_jit.__file__).parent

LAYERS = (  # the highest first; names in one row do not import one another
    {"__main__"},
    {"cli"},
    {"integrations"},
    {"training"},
    {"checkpoints"},
    {"generation"},
    {"models"},
    {"tuning"},
    {"nn"},
    {"ops"},
    {"runtime"},
    {"kernels"},
    {"devices"},
    {"quant", "packing", "reference"},
    {"arguments", "dtypes", "system"},
    {"problem", "errors"},
)
LEVEL = {name: level for level, names in enumerate(reversed(LAYERS)) for name in names}

NEEDS_NO_TORCH = (
    "kernels.numba",
    "kernels.kernel",
    "kernels.registry",
    "packing",
    "reference",
    "problem",
    "errors",
    "files",
    "reading",
    "memory",
    "forks",
    "private_folder",
    "shielded",
)

MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}


def imports(path: Path, top_level_only: bool = False) -> set[str]:
    """Modules that a file imports, type checking's apart; with `top_level_only`, those that importing it imports."""
    found: set[str] = set()
    pending: list[ast.AST] = list(ast.parse(path.read_text()).body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending += node.orelse
        elif top_level_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide a layer"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        else:
            pending += ast.iter_child_nodes(node)
    return found


def layer(module: str) -> str:
    """The layer of a module, by its first name below the package."""
    return module.partition(".")[0]


@pytest.mark.parametrize("module", [name for name in MODULES if name != "__init__"])
def test_imports_go_down_only(module):
    assert layer(module) in LEVEL, f"{module} is in no layer: add it to LAYERS"
    for imported in imports(MODULES[module]):
        package, _, inner = imported.partition(".")
        if package != "bitnet_jit" or layer(inner) not in LEVEL or layer(inner) == layer(module):
            continue
        assert LEVEL[layer(inner)] < LEVEL[layer(module)], f"{module} imports {imported}, which is not below it"


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith(NEEDS_NO_TORCH)])
def test_the_base_and_the_numba_kernels_need_no_torch(module):
    assert not {name for name in imports(MODULES[module], top_level_only=True) if layer(name) == "torch"}


@pytest.mark.parametrize("module", MODULES)
def test_a_kernel_language_stays_in_its_folder(module):
    languages = {layer(name) for name in imports(MODULES[module], top_level_only=True)}
    for language in languages & {"numba", "llvmlite", "triton", "mlx"}:
        home = "kernels." + {"llvmlite": "numba"}.get(language, language)
        assert module.startswith(home), f"{module} imports {language} when it is imported"


def test_files_hold_one_idea():
    long = {name: len(path.read_text().splitlines()) for name, path in MODULES.items()}
    assert {name: lines for name, lines in long.items() if lines > 400} == {}
