"""The examples of the documentation's pages run."""

import doctest
from pathlib import Path

import pytest

PAGES = [path for path in sorted((Path(__file__).parents[1] / "docs").glob("*.md")) if ">>> " in path.read_text()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_run(page):
    result = doctest.testfile(str(page), module_relative=False, encoding="utf-8")
    assert result.attempted >= 3
    assert result.failed == 0


def test_text_generation_has_a_page():
    assert "generation.md" in {page.name for page in PAGES}
