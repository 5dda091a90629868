"""Downloads from hubs on this machine, whole and damaged in every way, in a process that knows no other hub."""

import json
import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from scripted_server import scripted_server

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
        """Answer as a hub that has the model; each file has the given content."""
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
    """Ask for each kind of name in a process that knows that endpoint alone, and return the answers."""
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
    with scripted_server(Hub) as (_, address):
        yield address


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
