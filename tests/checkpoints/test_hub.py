"""Names of models: the ones that the hub is asked for, and every error that the client can raise."""

import errno
import inspect
import json
from fnmatch import fnmatch
from pathlib import Path

import httpx2
import huggingface_hub
import pytest
from gguf_models import as_gguf
from huggingface_hub import errors

import bitnet_jit
from bitnet_jit.checkpoints import hub
from bitnet_jit.checkpoints.embedded import embedded_model
from bitnet_jit.errors import CheckpointError, InvalidInput

NO_NAMES = [
    "",
    " ",
    ".",
    "./x",
    "../x",
    "/x/y",
    "~/x",
    "~",
    "C:\\models\\x",
    "C:/models/x",
    "models\\x",
    "x",
    "model.safetensors",
    "models/x.gguf",
    "models/x.GGUF",
    "models/pytorch_model.bin",
    "models/config.json",
    "a/b/c",
    "owner/name/",
    "owner//name",
    "https://huggingface.co/owner/name",
    "owner/name@main",
    "owner/na me",
    "owner/näme",
    "owner/name\n",
    "a\0b",
    "owner/\udce9",
    "x" * 5000,
]


@pytest.fixture
def unreachable(monkeypatch):
    """Replace the hub by one that must not be asked."""

    def ask(*arguments, **options):
        raise AssertionError(f"was asked for {arguments}")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", ask)


@pytest.mark.parametrize("name", NO_NAMES)
def test_the_hub_is_not_asked_for_wrong_names(unreachable, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path / "..")
    if name == ".":
        monkeypatch.chdir(tmp_path)
        with pytest.raises(CheckpointError, match=r"config\.json"):
            bitnet_jit.load(name)
        return
    with pytest.raises(CheckpointError, match="expected a directory or a hub id such as owner/name, found neither"):
        bitnet_jit.load(name)


@pytest.mark.parametrize("name", ["model.bin", "owner/name", "owner/model.safetensors", "link/broken"])
def test_a_file_is_not_asked_for(unreachable, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).symlink_to("nowhere") if name == "link/broken" else Path(name).write_bytes(b"?")
    for given in (name, Path(name), str(Path(name).absolute())):
        with pytest.raises(CheckpointError, match=f"{name}: expected a directory .* found another file"):
            bitnet_jit.load(given)


def test_a_directory_wins_over_a_name(unreachable, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("owner").mkdir()
    Path("owner/name").symlink_to(embedded_model())
    assert bitnet_jit.load("owner/name").config.vocab_size == 256


def test_a_path_is_no_name(unreachable):
    with pytest.raises(CheckpointError, match="owner/name: expected a directory with config.json"):
        bitnet_jit.load(Path("owner/name"))


@pytest.mark.parametrize("path", [5, b"owner/name", ["owner/name"], True])
def test_arguments_that_are_no_paths_are_refused(unreachable, path):
    with pytest.raises(InvalidInput, match="path: expected a str or a path, got"):
        bitnet_jit.load(path)


def test_without_a_path_the_embedded_model_is_loaded(tiny):
    assert (
        bitnet_jit.load().generate([*b"In the "], max_new_tokens=4).tolist()
        == tiny.generate([*b"In the "], max_new_tokens=4).tolist()
    )


def test_load_takes_a_name(monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, allow_patterns: str(embedded_model()))
    assert bitnet_jit.load("owner/name").config.vocab_size == 256


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """Return a function that makes a repository of files with these contents; what was asked for is kept."""
    asked = []

    def make(files):
        def download(name, allow_patterns):
            asked.append((name, allow_patterns))
            for file, content in files.items():
                if any(fnmatch(file, pattern) for pattern in allow_patterns):
                    (tmp_path / file).write_bytes(content)
            return str(tmp_path)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
        monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda name: [*files, "README.md"])
        return asked

    return make


def test_a_file_of_a_repository_is_named_behind_a_colon(repository, tmp_path, tiny):
    content = as_gguf(tiny, tmp_path / "made", "bitnet-b1.58").read_bytes()
    (tmp_path / "made").unlink()
    asked = repository({"a.gguf": content, "b.gguf": b"?"})
    assert bitnet_jit.load("owner/name:a.gguf").config == tiny.config
    assert asked == [("owner/name", ["a.gguf"])]
    with pytest.raises(CheckpointError, match=r"owner/name:c.gguf: expected this file .*, found a.gguf, b.gguf"):
        bitnet_jit.load("owner/name:c.gguf")
    with pytest.raises(CheckpointError, match=r"owner/name: holds 2 GGUF files: name one, such as owner/name:a.gguf"):
        bitnet_jit.load("owner/name")


def test_the_only_file_of_a_repository_needs_no_name(repository, tmp_path, tiny):
    content = as_gguf(tiny, tmp_path / "made", "bitnet-b1.58").read_bytes()
    (tmp_path / "made").unlink()
    repository({"only.gguf": content})
    assert bitnet_jit.load("owner/name").config == tiny.config


def test_parts_come_together(repository):
    names = [f"m-{number:05}-of-00002.gguf" for number in (1, 2)]
    asked = repository(dict.fromkeys(names, b"GGUF"))
    assert hub.find_model("owner/name").name == names[0]
    assert hub.find_model(f"owner/name:{names[1]}").name == names[1]
    assert asked[-1] == ("owner/name", ["m-*-of-00002.gguf"])


@pytest.mark.parametrize(
    "name", ["owner/name:../x.gguf", "owner/name:/x.gguf", "owner/name:x.bin", "owner/name:", "name:x.gguf"]
)
def test_what_stands_behind_a_colon_is_a_gguf_file(unreachable, name):
    with pytest.raises(CheckpointError, match="found neither"):
        hub.find_model(name)


def every_error() -> list[BaseException]:
    """Make an error of each class that the client, or a library below it, can raise."""
    kinds = [kind for module in (errors, httpx2) for _, kind in inspect.getmembers(module, inspect.isclass)]
    raised = [kind.__new__(kind, "words") for kind in kinds if issubclass(kind, Exception)]
    panic = type("PanicException", (BaseException,), {"__module__": "pyo3_runtime"})
    raised += [kind("words") for kind in (OSError, ValueError, RuntimeError, KeyError, TypeError, MemoryError, panic)]
    return [
        *raised,
        AssertionError(),
        ConnectionResetError(errno.ECONNRESET, "reset"),
        json.JSONDecodeError("x", "", 0),
    ]


@pytest.mark.parametrize("error", every_error(), ids=lambda error: type(error).__name__)
def test_every_error_of_the_client_is_told_in_words(monkeypatch, error):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(CheckpointError, match="owner/name: no such directory here, and it cannot be had from") as told:
        hub.find_model("owner/name")
    assert told.value.__cause__ is error


def test_there_are_many_errors():
    assert len(every_error()) > 60


def test_control_c_stops_a_download(monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(huggingface_hub, "snapshot_download", interrupted)
    with pytest.raises(KeyboardInterrupt):
        hub.find_model("owner/name")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "make room on the disk, or set HF_HOME"),
        (PermissionError(errno.EACCES, "Permission denied"), "set HF_HOME to a folder that can be written to"),
        (errors.OfflineModeIsEnabled("offline"), "unset HF_HUB_OFFLINE"),
        (errors.GatedRepoError.__new__(errors.GatedRepoError, "gated"), "accept its conditions .* `hf auth login`"),
        (errors.RepositoryNotFoundError.__new__(errors.RepositoryNotFoundError, "no"), "check the name; .* log in"),
        (httpx2.ReadTimeout("slow"), "check the connection and try again"),
    ],
)
def test_errors_say_how_to_go_on(error, words):
    outer = RuntimeError("while downloading")
    outer.__cause__ = error
    for raised in (error, outer):
        with pytest.raises(CheckpointError, match=words):  # noqa: SIM117
            with hub.refused(lambda error: hub.advice(error)):
                raise raised
