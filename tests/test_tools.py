"""Scripts that CI does not run: the files and tests that they name are there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = ("tools/test_gpu.sh", "tools/test_arm.sh", "tools/pin_versions.sh", "Makefile", ".ci/run")


@pytest.mark.parametrize("script", SCRIPTS)
def test_files_that_a_script_names_are_there(script):
    """Look for paths of tests, tools and benchmarks among the words of the text."""
    words = re.sub(r"[\"\']", " ", (ROOT / script).read_text()).split()
    names = {word for word in words if re.fullmatch(r"(tests|tools|benchmarks)/[\w./-]+\.(py|sh)", word)}
    assert names or script == ".ci/run"
    assert [name for name in sorted(names) if not (ROOT / name).is_file()] == []


def test_folders_of_tests_that_a_script_names_are_there():
    assert (ROOT / "tests/kernels/numba").is_dir()
    assert "tests/kernels/numba" in (ROOT / "tools/test_arm.sh").read_text()


def test_sanitizers_run_on_tests_that_are_there():
    """Look for each word of test_gpu.sh's -k in the names and texts of the files that it runs."""
    text = (ROOT / "tools/test_gpu.sh").read_text()
    (expression,) = re.findall(r'-k "([^"]+)"', text)
    files = re.search(r"compute-sanitizer --tool.*?-k", text, re.S)
    names = re.findall(r"tests/\S+\.py", files.group())
    sources = "\n".join(f"{name}\n{(ROOT / name).read_text()}" for name in names)
    words = [word for word in expression.replace("\\\n", " ").split() if word not in ("and", "or", "not")]
    assert len(names) >= 4
    assert [word for word in words if word not in sources] == []


def test_every_file_with_tests_of_a_gpu_runs_where_there_is_one():
    tests = ROOT / "tests"
    of_gpus = {path for path in tests.rglob("test_*.py") if "cuda.is_available()" in path.read_text()} - {
        Path(__file__)
    }
    named = (ROOT / "tools/test_gpu.sh").read_text().split()
    names = {word.strip('"') for word in named}
    assert len(of_gpus) > 10
    assert sorted(name for path in of_gpus if (name := str(path.relative_to(ROOT))) not in names) == []
