"""Imports go down only and in no circles. LAYERS is the order; the imports are read from the syntax trees.

import-linter states layers and circles as well. It does not tell imports within functions from others, which "needs no
torch" is about, and knows no length of chains; so all of it stands here, in one place.
"""

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import bitnet_jit

ROOT = Path(bitnet_jit.__file__).parent

LAYERS = (  # the highest first; names in one row do not import one another
    {"__main__"},
    {"cli"},
    {"integrations"},
    {"mlx"},
    {"training"},
    {"server"},  # to come, as distributed
    {"engine"},
    {"distributed"},
    {"checkpoints"},
    {"generation"},
    {"runner"},
    {"models"},
    {"tuning"},
    {"nn"},
    {"ops"},
    {"runtime"},
    {"kernels"},
    {"devices"},
    {"quant", "packing", "reference"},
    {"settings"},
    {"arguments", "dtypes", "system"},
    {"moved", "problem", "errors"},
)
LEVEL = {name: level for level, names in enumerate(reversed(LAYERS)) for name in names}

NEEDS_NO_TORCH = (
    "kernels.__init__",
    "kernels.backend",
    "kernels.kernel",
    "kernels.numba",
    "kernels.operands",
    "kernels.registry",
    "kernels.triton.layout",
    "devices.clock",
    "devices.cpu",
    "devices.cuda",
    "devices.kind",
    "devices.mps",
    "packing",
    "reference",
    "settings",
    "moved",
    "problem",
    "errors",
    "system",
    "runtime.entries",
    "runtime.hooks",
)
TORCH_BINDINGS = ("kernels.numba.tensors",)
MAX_CHAIN = 21  # modules that import one another when the first one is imported
MAX_LINES, MAX_FUNCTION = 300, 40

MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}


def imports(path: Path, top_level_only: bool = False) -> set[str]:
    """Return the modules that a file imports, type checking's apart; `top_level_only` leaves out functions."""
    result: set[str] = set()
    pending: list[ast.AST] = list(ast.parse(path.read_text()).body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending += node.orelse
        elif top_level_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        elif isinstance(node, ast.Import):
            result |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide a layer"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            result |= {name if name.removeprefix("bitnet_jit.") in MODULES else node.module for name in names}
        else:
            pending += ast.iter_child_nodes(node)
    return result


def layer(module: str) -> str:
    """Return the layer of a module: its first name below the package."""
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
    if module not in TORCH_BINDINGS:
        assert not {name for name in imports(MODULES[module], top_level_only=True) if layer(name) == "torch"}


@pytest.mark.parametrize("module", MODULES)
def test_a_kernel_language_stays_in_its_folder(module):
    languages = {layer(name) for name in imports(MODULES[module], top_level_only=True)}
    for language in languages & {"numba", "llvmlite", "triton", "mlx"}:
        home = "kernels." + {"llvmlite": "numba"}.get(language, language)
        homes = (home, "mlx.") if language == "mlx" else (home,)
        assert module.startswith(homes), f"{module} imports {language} when it is imported"


def graph(top_level_only):
    """Return the modules of the package that each module imports."""
    return {
        module: {name.removeprefix("bitnet_jit.") for name in imports(path, top_level_only) if is_ours(name)}
        & MODULES.keys() - {module}
        for module, path in MODULES.items()
    }


def is_ours(name):
    """Return whether a module is of the package; MLX is not, though the package has an mlx, too."""
    return layer(name) == "bitnet_jit"


def test_no_module_imports_itself_by_way_of_others():
    """Imports within functions count, too."""
    try:
        list(TopologicalSorter(graph(top_level_only=False)).static_order())
    except CycleError as error:
        pytest.fail(f"a circle: {' -> '.join(error.args[1])}")


def test_chains_of_imports_are_short():
    imported, longest = graph(top_level_only=True), {}
    for module in TopologicalSorter(imported).static_order():
        longest[module] = [module, *max((longest[name] for name in imported[module]), key=len, default=[])]
    worst = max(longest.values(), key=len)
    assert len(worst) <= MAX_CHAIN, " -> ".join(worst)


@pytest.mark.parametrize("module", MODULES)
def test_files_hold_one_idea_and_functions_one_step(module):
    source = MODULES[module].read_text()
    assert len(source.splitlines()) <= MAX_LINES
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and not module.startswith("kernels."):
            assert node.end_lineno - node.lineno < MAX_FUNCTION, f"{node.name} is too long"


def test_an_op_is_named_in_one_file_beside_kernels():
    """All else reads its record."""
    for op in ("silu_mul_norm", "relu2_mul_norm_quantize", "silu_mul_norm_quantize", "bit_linear_input_grad"):
        files = [module for module, path in MODULES.items() if f'"{op}"' in path.read_text()]
        assert len([module for module in files if not module.startswith("kernels.")]) == 1, files


@pytest.mark.parametrize("module", [name for name in MODULES if not name.startswith(("kernels.", "devices."))])
def test_no_backend_or_device_is_asked_for_by_name_above_their_records(module):
    assert not re.search(r'startswith\("(triton|numba|torch)|[!=]= "(cuda|triton|numba)"', MODULES[module].read_text())


@pytest.mark.parametrize("page", ["docs/design.md", "CONTRIBUTING.md"])
def test_the_pages_state_the_same_order_of_layers(page):
    text = (ROOT.parent / page).read_text()
    (order,) = re.findall(r"```\n(cli .*?)\n```|cli > (.*?)\. A chain", text, re.DOTALL)
    told = [name for name in re.findall(r"\b[a-z]+\b", first_words(order[0]) or f"cli {order[1]}") if name in LEVEL]
    levels = [LEVEL[name] for name in told]
    assert levels == sorted(levels, reverse=True)
    assert set(told) == LEVEL.keys() - {"__main__", "moved"}


def first_words(block):
    """Return the names of layers in a block of text, which stand before two spaces."""
    return " ".join(re.split(r" {2,}", line)[0] for line in block.splitlines() if line[:1] > " ")
