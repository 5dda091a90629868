"""The benchmarks as a package: imports that go down, scripts that run from a checkout, and no part of the product."""

import ast
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import benchmarks

FOLDER = Path(benchmarks.__file__).parent
ROOT = FOLDER.parent
LAYERS = ("harness", "providers", "suites")  # the lowest first; scripts stand above
SCRIPTS = sorted(path.name for path in FOLDER.glob("*.py") if path.name != "__init__.py")


def layer(parts):
    """Return the place of a module in LAYERS, by its first name below the package."""
    return LAYERS.index(parts[0]) if parts and parts[0] in LAYERS else len(LAYERS)


@pytest.mark.parametrize("path", sorted(FOLDER.rglob("*.py")), ids=lambda path: str(path.relative_to(FOLDER)))
def test_imports_go_down_only(path):
    place = layer(path.relative_to(FOLDER).with_suffix("").parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "benchmarks":
            names = [[*node.module.split(".")[1:], alias.name] for alias in node.names]
            assert max(map(layer, names)) <= place, f"{path} imports {node.module}"


def test_benchmarks_are_no_part_of_the_product():
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]
    assert build["wheel"] == {"packages": ["bitnet_jit"]}
    assert "/benchmarks" in build["sdist"]["include"]
    for path in (ROOT / "bitnet_jit").rglob("*.py"):
        assert "benchmarks." not in path.read_text().replace("`benchmarks/`", ""), path


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_tells_the_options_of_a_script(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(FOLDER / script), run_name="__main__")
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    others = {"load_server.py": ("--json", "--picture"), "soak.py": ("--json",), "bench_mlx.py": ("--json", "--rows")}
    usual = ("--json", "--threads") if script.startswith("bench_") else ("--results",)
    for option in others.get(script, usual):
        assert option in printed


def test_a_script_runs_by_its_path_where_only_the_product_is_installed(tmp_path):
    """Run as after `pip install .`: the checkout is on no path, and the script's folder is the first of them."""
    code = f"""
import runpy, sys
sys.path = [{str(FOLDER)!r}, *(path for path in sys.path if path not in ("", {str(ROOT)!r}))]
sys.argv = ["readme_table.py", "--print", "--results", {str(FOLDER / "results")!r}]
runpy.run_path({str(FOLDER / "readme_table.py")!r}, run_name="__main__")
"""
    command = [sys.executable, "-c", code]
    shown = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path).stdout
    assert "| weight | rows |" in shown
