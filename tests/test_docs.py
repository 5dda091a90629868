"""The documentation: examples of its pages and of the README run, and its links lead somewhere."""

import doctest
import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [path for path in DOCS if ">>> " in path.read_text()]
CAPABILITIES = {
    "checkpoints",
    "command-line",
    "engine",
    "generation",
    "layers",
    "ops",
    "processes",
    "training",
    "tuning",
}
LINKING = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "benchmarks").rglob("*.md")),
]


@pytest.fixture(autouse=True)
def one_thread():
    """Run on one thread: examples this small gain little by more, and lose much on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_run(page):
    if page.name == "mlx.md":
        pytest.importorskip("mlx.core", reason="needs MLX: pip install 'mlx[cpu]'")
    result = doctest.testfile(str(page), module_relative=False, encoding="utf-8")
    assert result.attempted >= 3
    assert result.failed == 0


def test_each_capability_has_a_page_whose_examples_run():
    assert {page.stem for page in PAGES} >= CAPABILITIES


def test_the_readme_names_every_page():
    text = (ROOT / "README.md").read_text()
    assert [page.name for page in DOCS if f"docs/{page.name}" not in text] == []


@pytest.mark.parametrize("page", LINKING, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_that_are_there(page):
    targets = re.findall(r"\]\(([^)#\s]*)(?:#[^)]*)?\)", page.read_text())
    local = [target for target in targets if target and "://" not in target]
    assert [target for target in local if not (page.parent / target).exists()] == []


def test_the_examples_of_the_readme_run_one_after_another(tmp_path, monkeypatch):
    """Run the blocks of ```python; blocks of ```py need a download or another package."""
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
    assert len(blocks) >= 5
    namespace: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), namespace)
