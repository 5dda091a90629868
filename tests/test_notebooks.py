"""The notebooks: each runs from its first cell to its last on the CPU, and is stored without output."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
EVERY_NOTEBOOK = pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
PRINTED = {  # by the cells of each, among other things
    "quickstart": ["loss ", "bytes instead of", "% right", "In the beginning"],
    "train_a_tiny_model": [
        "bytes/s",
        "bits per byte of the held-out text in the end",
        "stopped after step",
        "losses and all weights are the same",
        "strength 0.50",
        "with adapters",
        "update lost",
    ],
}
LESS = {  # what takes long, and less of it that is enough
    "train_a_tiny_model": {
        "topics.values()": "list(topics.values())[:20]",
        "steps=600": "steps=120",
        "steps=100": "steps=30",
    },
}


def test_every_notebook_has_expected_output():
    assert {path.stem for path in NOTEBOOKS} == set(PRINTED)


@EVERY_NOTEBOOK
def test_a_notebook_is_stored_without_output(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@EVERY_NOTEBOOK
def test_a_notebook_runs(path, tmp_path, monkeypatch):
    """With a shorter text and fewer steps, where it trains."""
    notebook = nbformat.read(path, as_version=4)
    for written, less in LESS.get(path.stem, {}).items():
        (cell,) = [cell for cell in notebook.cells if written in cell.source]
        cell.source = cell.source.replace(written, less)
    check_runs(notebook, path, tmp_path, monkeypatch)


@pytest.mark.exhaustive
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("path", [path for path in NOTEBOOKS if path.stem in LESS], ids=list(LESS))
def test_a_notebook_runs_as_it_is(path, tmp_path, monkeypatch):
    check_runs(nbformat.read(path, as_version=4), path, tmp_path, monkeypatch)


def check_runs(notebook, path, folder, monkeypatch):
    """Run all cells of a notebook, which must print what is expected and warn of nothing."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # layers this small gain little by more, and lose much on a busy machine
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": folder}}).execute()
    assert printed(notebook, "stderr") == ""  # no warning, no log
    text = printed(notebook, "stdout")
    assert [words for words in PRINTED[path.stem] if words not in text] == []


def printed(notebook, stream):
    """Return the text that the cells of a notebook have written to "stdout" or "stderr"."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "".join(output.text for output in outputs if output.get("name") == stream)
