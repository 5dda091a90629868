"""Old names of documented modules give the modules that have moved, and warn."""

import ast
import importlib
import importlib.util
import subprocess
import sys

import pytest

import bitnet_jit
from bitnet_jit.moved import MOVED


@pytest.mark.parametrize("old", MOVED)
def test_an_old_name_gives_the_moved_module_and_a_warning(old, monkeypatch):
    monkeypatch.delitem(sys.modules, old, raising=False)
    with pytest.warns(DeprecationWarning, match=f"{old} has moved to {MOVED[old]}") as warned:
        module = importlib.import_module(old)
    assert module is importlib.import_module(MOVED[old])
    assert module.__name__ == module.__spec__.name == MOVED[old]
    assert len(warned) == 1
    monkeypatch.undo()


def test_the_warning_names_the_line_that_imports(monkeypatch):
    monkeypatch.delitem(sys.modules, "bitnet_jit.models.text", raising=False)
    with pytest.warns(DeprecationWarning, match="has moved") as warned:
        from bitnet_jit.models.text import stream_text
    assert warned[0].filename == __file__
    assert stream_text is bitnet_jit.stream_text


@pytest.mark.parametrize("old", MOVED)
def test_an_old_name_hides_no_module(old):
    parent = importlib.import_module(old.rpartition(".")[0])
    assert importlib.machinery.PathFinder.find_spec(old, parent.__path__) is None


def test_other_names_are_missing_as_before():
    with pytest.raises(ModuleNotFoundError, match=r"bitnet_jit\.models\.no_such_module"):
        importlib.import_module("bitnet_jit.models.no_such_module")


def test_the_finder_is_installed_once_and_last():
    code = "from bitnet_jit import moved; moved.install(); import sys; print([type(f).__name__ for f in sys.meta_path])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    finders = ast.literal_eval(result.stdout)
    assert finders.count("MovedFinder") == 1
    assert finders[-1] == "MovedFinder"
