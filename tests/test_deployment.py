"""The page on deployment: programs read the files that it has for them, and nginx passes streams on as they come."""

import configparser
import json
import re
import shlex
import shutil
import socket
import subprocess
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import httpx
import pytest
import typer
import yaml
from scripted_server import scripted_server
from served import running

import bitnet_jit
from bitnet_jit.cli.app import app
from bitnet_jit.engine import InferenceEngine
from bitnet_jit.server.app import make_app

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "deployment.md").read_text()
NGINX = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
WAIT = 30
TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")  # folders of nginx

needs_nginx = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")


def block(language, word=""):
    """Return the block of a language that has a word in it."""
    (text,) = [text for text in re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.M | re.S) if word in text]
    return text


def serve_options(words):
    """Return the values that `bitnet-jit serve` reads from words."""
    return typer.main.get_command(app).commands["serve"].make_context("serve", words).params


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@contextmanager
def real_server():
    """Run a server of the small model; yield its port and its engine."""
    with InferenceEngine() as engine:
        engine.add_model("tiny", bitnet_jit.load())
        with running(make_app(engine)) as (address, _):
            yield int(address.rpartition(":")[2]), engine


class Slow(BaseHTTPRequestHandler):
    """Streams an event each fifth of a second, up to the end of the connection, which nginx holds back by default."""

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        try:
            for number in range(5):
                self.wfile.write(b'data: {"number": %d}\n\n' % number)
                self.wfile.flush()
                time.sleep(0.2)
        except OSError:
            self.server.left.set()

    def log_message(self, *arguments):
        pass


@contextmanager
def slow_server():
    with scripted_server(Slow, left=threading.Event()) as (server, _):
        yield server


def configured(folder, upstream, listen, *changes):
    """Write the page's configuration for ports of this test, without encryption; return its file."""
    text = block("nginx")
    for before, after in (
        *changes,
        ("server 127.0.0.1:8000;", f"server 127.0.0.1:{upstream};"),
        ("listen 443 ssl;", f"listen 127.0.0.1:{listen};"),
    ):
        assert before in text
        text = text.replace(before, after)
    text = re.sub(r"^\s*ssl_certificate.*\n", "", text, flags=re.M)
    folders = "".join(
        f"{name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    file = folder / "nginx.conf"
    file.write_text(
        f"daemon off; pid {folder}/pid; error_log {folder}/error.log; worker_processes 1;\n"
        f"events {{}}\nhttp {{ access_log off; {folders}\n{text}\n}}\n"
    )
    return file


@contextmanager
def proxied(folder, upstream, *changes):
    """Run nginx before a port; yield its address. Changes are of the configuration: a text and what replaces it."""
    port = free_port()
    command = [
        NGINX,
        "-p",
        str(folder),
        "-e",
        str(folder / "error.log"),
        "-c",
        str(configured(folder, upstream, port, *changes)),
    ]
    subprocess.run([*command, "-t"], check=True, capture_output=True, text=True)
    process = subprocess.Popen(command)
    try:
        end = time.monotonic() + WAIT
        while time.monotonic() < end:
            with socket.socket() as tried:
                if not tried.connect_ex(("127.0.0.1", port)):
                    break
            time.sleep(0.01)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(WAIT)


def times_of_events(address):
    """Return the seconds after which each event of a stream came."""
    start = time.monotonic()
    with httpx.stream("POST", f"{address}/v1/completions", json={}, timeout=WAIT) as response:
        return [time.monotonic() - start for line in response.iter_lines() if line]


@needs_nginx
def test_nginx_passes_each_event_on_at_once(tmp_path):
    """The upstream says nothing of buffering: the configuration alone keeps nginx from it."""
    with slow_server() as server, proxied(tmp_path, server.server_port) as address:
        times = times_of_events(address)
    assert len(times) == 5
    assert times[-1] - times[0] > 0.3, "all came together"


@needs_nginx
def test_nginx_holds_events_back_where_nobody_tells_it(tmp_path):
    with slow_server() as server, proxied(tmp_path, server.server_port, ("proxy_buffering off;", "")) as address:
        times = times_of_events(address)
    assert len(times) == 5
    assert times[-1] - times[0] < 0.2


@needs_nginx
def test_a_client_that_leaves_is_seen_behind_nginx(tmp_path):
    with slow_server() as server, proxied(tmp_path, server.server_port) as address:
        with httpx.stream("POST", f"{address}/v1/completions", json={}, timeout=WAIT) as response:
            next(response.iter_lines())
        assert server.left.wait(WAIT)


@needs_nginx
def test_the_real_server_streams_through_nginx(tmp_path):
    body = {"model": "tiny", "prompt": "And it came to pass ", "max_tokens": 14, "temperature": 0, "stream": True}
    with real_server() as (port, engine), proxied(tmp_path, port) as address:
        texts = []
        for base in (f"http://127.0.0.1:{port}", address):
            with httpx.stream("POST", f"{base}/v1/completions", json=body, timeout=WAIT) as response:
                events = [line[6:] for line in response.iter_lines() if line.startswith("data: ")]
            assert events.pop() == "[DONE]"
            assert len(events) > 5, "a text comes in pieces"
            texts.append("".join(json.loads(event)["choices"][0]["text"] for event in events))
        assert texts[0] == texts[1] == "after the days"
        with httpx.Client(base_url=address, timeout=WAIT) as http:
            assert http.get("/health").status_code == 200
            assert http.get("/metrics").status_code == 404
            assert http.get("/").status_code == 404
            assert http.post("/v1/completions", content=b" " * (5 * 2**20)).status_code == 413
            assert {http.get("/v1/models").status_code for _ in range(100)} == {200, 429}
        assert engine.stats()["tiny"].finished >= 2


def unit():
    """Return the unit of systemd; names that come more than once are joined by lines."""
    lines = [line for line in block("ini").splitlines() if not line.startswith("Environment=")]
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str
    parser.read_string("\n".join(lines))
    return parser


def test_the_unit_starts_what_is_there():
    service = unit()["Service"]
    program, command, *options = shlex.split(service["ExecStart"].replace("%i", "8000"))
    assert (Path(program).name, command) == ("bitnet-jit", "serve")
    values = serve_options(options)
    assert values["models"] == ["microsoft/bitnet-b1.58-2B-4T"]
    assert values["port"] == 8000
    assert values["timeout"] < float(service["TimeoutStopSec"]), "killed before accepted texts can end"
    assert f"{values['api_key_env']}=" in block("sh", "keys.env")
    variables = dict(re.findall(r"^Environment=(\w+)=(\S+)$", block("ini"), re.M))
    folder = Path("/var/cache") / service["CacheDirectory"]
    assert {"BITNET_JIT_CACHE", "NUMBA_CACHE_DIR", "HF_HOME"} == variables.keys()
    assert all(Path(value).parent == folder for value in variables.values())
    assert "MemoryDenyWriteExecute" not in service


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_reads_the_unit(tmp_path):
    file = tmp_path / "bitnet-jit@8000.service"
    file.write_text(block("ini").replace("/opt/bitnet-jit/bin/bitnet-jit", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", str(file)], capture_output=True, text=True)
    complaints = [line for line in done.stderr.splitlines() if "bitnet-jit@" in line]
    assert complaints == []


def test_containers_are_started_with_options_of_serve():
    commands = re.findall(r"bitnet-jit:\w+ \\\n(.*)$", block("sh", "docker run"), re.M)
    assert len(commands) == 2
    for options in commands:
        assert serve_options(shlex.split(options))["timeout"] == 600
    for name in re.findall(r"-f (\S+)", block("sh", "docker run")):
        assert (ROOT / name).is_file()


def test_prometheus_reads_its_configuration_and_the_metrics_are_there():
    (job,) = yaml.safe_load(block("yaml"))["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["127.0.0.1:8000"]}]
    assert job["authorization"]["type"] == "Bearer"
    names = set(re.findall(r"\bbitnet_jit_[a-z_]+", PAGE.split("## Metrics")[1].split("## Upgrades")[0]))
    assert len(names) > 10
    with real_server() as (port, _):
        body = {"model": "tiny", "prompt": "A", "max_tokens": 3}
        assert httpx.post(f"http://127.0.0.1:{port}/v1/completions", json=body, timeout=WAIT).status_code == 200
        told = httpx.get(f"http://127.0.0.1:{port}/metrics").text
    assert [name for name in sorted(names) if not re.search(rf"^{name}[{{ ]", told, re.M)] == []


def test_options_that_the_page_names_are_options():
    known = {name for parameter in typer.main.get_command(app).commands["serve"].params for name in parameter.opts}
    table = PAGE.split("## Limits")[1].split("## Keys")[0]
    named = set(re.findall(r"`(--[a-z-]+)`", table))
    assert len(named) > 6
    assert named <= known
