"""Names of models: what is asked for on the hub and what is not, and every way in which a download can fail."""

import errno
import inspect
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx2
import huggingface_hub
import pytest
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
    """A hub that must not be asked."""

    def ask(*arguments, **options):
        raise AssertionError(f"was asked for {arguments}")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", ask)


@pytest.mark.parametrize("name", NO_NAMES)
def test_what_is_no_name_is_not_asked_for(unreachable, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path / "..")
    if name == ".":
        monkeypatch.chdir(tmp_path)
        with pytest.raises(CheckpointError, match=r"config\.json"):
            bitnet_jit.load(name)
        return
    with pytest.raises(CheckpointError, match="expected a directory or a hub id such as owner/name, found neither"):
        bitnet_jit.load(name)


@pytest.mark.parametrize("name", ["model.gguf", "owner/name", "owner/model.safetensors", "link/broken"])
def test_a_file_is_not_asked_for(unreachable, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).symlink_to("nowhere") if name == "link/broken" else Path(name).write_bytes(b"GGUF")
    for given in (name, Path(name), str(Path(name).absolute())):
        with pytest.raises(CheckpointError, match=f"{name}: expected a directory with config.json .* found a file"):
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
def test_what_is_no_path_is_refused(unreachable, path):
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


def every_error() -> list[BaseException]:
    """One of each class that the client, or what it stands on, can raise."""
    kinds = [kind for module in (errors, httpx2) for _, kind in inspect.getmembers(module, inspect.isclass)]
    found = [kind.__new__(kind, "words") for kind in kinds if issubclass(kind, Exception)]
    panic = type("PanicException", (BaseException,), {"__module__": "pyo3_runtime"})
    found += [kind("words") for kind in (OSError, ValueError, RuntimeError, KeyError, TypeError, MemoryError, panic)]
    return [*found, AssertionError(), ConnectionResetError(errno.ECONNRESET, "reset"), json.JSONDecodeError("x", "", 0)]


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
def test_what_to_do_is_said(error, words):
    outer = RuntimeError("while downloading")
    outer.__cause__ = error
    for raised in (error, outer):
        with pytest.raises(CheckpointError, match=words):  # noqa: SIM117
            with hub.refused(lambda error: hub.advice(error)):
                raise raised


SHA = "0123456789abcdef0123456789abcdef01234567"
CONFIG = b'{"model_type": "bitnet"}'
TREE = [{"type": "file", "path": "config.json", "size": len(CONFIG), "oid": "1" * 40}]


class Hub(BaseHTTPRequestHandler):
    """A hub whose answers are damaged as the name of the repository says."""

    def log_message(self, *arguments):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        kind = next((kind for kind in ANSWERS if f"/{kind}/" in self.path), "none")
        ANSWERS[kind](self)

    def answer(self, status=200, body=b"", claimed=None, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body) if claimed is None else claimed))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        self.close_connection = True

    def whole(self, content=CONFIG, claimed=None):
        """The answers of a hub that has the model; a file's content is what is given."""
        if "/revision/" in self.path:
            self.answer(body=json.dumps({"id": "owner/name", "sha": SHA, "siblings": []}).encode())
        elif "/tree/" in self.path:
            self.answer(body=json.dumps(TREE).encode())
        else:
            self.answer(body=content, claimed=claimed, ETag='"1"', X_Repo_Commit=SHA, Content_Type="text/plain")


ANSWERS = {
    "none": lambda self: self.answer(404, X_Error_Code="RepoNotFound"),
    "unauthorized": lambda self: self.answer(401, b"who are you?"),
    "forbidden": lambda self: self.answer(403, b"no"),
    "gated": lambda self: self.answer(403, X_Error_Code="GatedRepo"),
    "gone": lambda self: self.answer(410),
    "teapot": lambda self: self.answer(418, b"\xff\xfe"),
    "busy": lambda self: self.answer(429),
    "broken": lambda self: self.answer(500),
    "html": lambda self: self.answer(body=b"<html>Log in to the hotel's network</html>"),
    "empty": lambda self: self.answer(),
    "null": lambda self: self.answer(body=b"null"),
    "list": lambda self: self.answer(body=b"[1]"),
    "no-sha": lambda self: self.answer(body=b'{"id": "owner/name"}'),
    "odd-sha": lambda self: self.answer(body=b'{"id": "owner/name", "sha": 5, "siblings": 7}'),
    "no-gzip": lambda self: self.answer(body=b"garbage", Content_Encoding="gzip"),
    "cut-answer": lambda self: self.answer(body=b'{"id": ', claimed=1000),
    "no-http": lambda self: self.wfile.write(b"220 ftp.example.org ready\r\n"),
    "hang-up": lambda self: setattr(self, "close_connection", True),
    "loop": lambda self: self.answer(302, Location=self.path),
    "to-nowhere": lambda self: self.answer(302, Location="http://127.0.0.1:1/"),
    "to-ftp": lambda self: self.answer(302, Location="ftp://example.org/"),
    "to-nonsense": lambda self: self.answer(302, Location="http://[::bad/"),
    "cut-file": lambda self: self.whole(CONFIG[:7], claimed=len(CONFIG)),
}
# no waiting between the client's attempts
ASK = """
import json, sys, time, warnings
from bitnet_jit.checkpoints import hub
time.sleep = lambda seconds: None
for kind in json.load(sys.stdin):
    try:
        print(kind, "->", hub.find_model(f"{kind}/name"))
    except BaseException as error:
        print(kind, type(error).__name__, str(error).replace(chr(10), "|"))
"""


def ask(endpoint: str, home: Path, kinds: list[str], **environment: str) -> dict[str, str]:
    """What asking for each kind of name gives, in a process that knows that endpoint alone."""
    variables = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
    variables |= {"HF_HUB_ETAG_TIMEOUT": "2", "HF_HUB_DOWNLOAD_TIMEOUT": "2", "NO_PROXY": "127.0.0.1"} | environment
    command = [sys.executable, "-c", ASK]
    result = subprocess.run(
        command, input=json.dumps(kinds), env=os.environ | variables, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    return dict(line.split(" ", 1) for line in result.stdout.splitlines())


@pytest.fixture(scope="module")
def endpoint():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_answers_of_every_damaged_kind_are_told_in_words(endpoint, tmp_path):
    told = ask(endpoint, tmp_path, list(ANSWERS))
    assert set(told) == set(ANSWERS)
    for kind, words in told.items():
        expected = f"CheckpointError {kind}/name: no such directory here, and it cannot be had from huggingface.co; "
        assert words.startswith(expected), f"{kind}: {words}"
    assert "log in by `hf auth login`" in told["gated"]
    assert "log in by `hf auth login`" in told["forbidden"]
    assert "check the name" in told["none"]


def test_a_hub_that_has_the_model_is_read_and_then_needed_no_more(endpoint, tmp_path, monkeypatch):
    monkeypatch.setitem(ANSWERS, "whole", Hub.whole)
    folder = Path(ask(endpoint, tmp_path, ["whole"])["whole"].removeprefix("-> "))
    assert (folder / "config.json").read_bytes() == CONFIG
    assert ask("http://127.0.0.1:1", tmp_path, ["whole"], HF_HUB_OFFLINE="1")["whole"] == f"-> {folder}"


def test_a_hub_that_is_not_there_is_told_in_words(tmp_path):
    assert "check the connection and try again" in ask("http://127.0.0.1:1", tmp_path, ["owner"])["owner"]
    assert "check the connection" in ask("http://no-such-host.invalid", tmp_path, ["owner"])["owner"]
    assert "unset HF_HUB_OFFLINE" in ask("http://127.0.0.1:1", tmp_path, ["owner"], HF_HUB_OFFLINE="1")["owner"]


def test_a_cache_that_cannot_be_written_is_told_in_words(endpoint, tmp_path, monkeypatch):
    monkeypatch.setitem(ANSWERS, "whole", Hub.whole)
    (tmp_path / "file").write_bytes(b"")
    told = ask(endpoint, tmp_path / "file", ["whole"])["whole"]
    assert told.startswith("CheckpointError whole/name: no such directory here, and it cannot be had from"), told
