"""`bitnet-jit serve`, as a shell runs it, and its options."""

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from process_engines import is_running
from typer.testing import CliRunner

from bitnet_jit.checkpoints.embedded import embedded_model
from bitnet_jit.cli import serve as module
from bitnet_jit.cli.app import app
from bitnet_jit.errors import InvalidInput

WAIT = 60  # seconds for a start, which takes a few
BODY = {"prompt": "And it came to pass ", "max_tokens": 5, "temperature": 0}


@pytest.fixture
def start():
    """Return a starter of servers on a free port: options -> the process and its address."""
    processes = []

    def begin(*options, env=None):
        command = [sys.executable, "-m", "bitnet_jit", "serve", "--port", "0", *options]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        processes.append(process)
        for line in process.stderr:
            if match := re.search(r"running on (http://\S+)", line):
                return process, match[1]
        pytest.fail("it has ended")

    yield begin
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_it_serves_until_a_signal(start, number, code):
    process, address = start()
    answer = httpx.post(f"{address}/v1/completions", json={"model": "tiny-bitnet", **BODY}, timeout=WAIT).json()
    assert answer["choices"][0]["text"] == "after"
    process.send_signal(number)
    out, err = process.communicate(timeout=WAIT)
    assert process.returncode == code
    assert out == ""
    assert "Traceback" not in err


def test_a_stream_is_finished_before_the_end(start):
    process, address = start()
    body = {"model": "tiny-bitnet", "prompt": "A", "max_tokens": 300, "seed": 1, "stream": True}
    with httpx.stream("POST", f"{address}/v1/completions", json=body, timeout=WAIT) as response:
        pieces = response.iter_text()
        text = next(pieces)
        process.send_signal(signal.SIGTERM)
        text += "".join(pieces)
    assert text.endswith("data: [DONE]\n\n")
    assert process.wait(WAIT) == 0


def test_the_page_of_the_documentation_runs(start, tmp_path, monkeypatch):
    """Run its blocks of Python against a server, started as it says with a chat template."""
    text = (Path(__file__).parents[2] / "docs" / "serving.md").read_text()
    monkeypatch.chdir(tmp_path)
    (shell,) = re.findall(r"^(printf .*?jinja)$", text, re.M | re.S)
    subprocess.run(["sh", "-c", shell], check=True)
    _, address = start("--chat-template", "plain.jinja")
    printed, expected = [], []
    namespace: dict[str, object] = {"print": lambda *values: printed.append(" ".join(map(str, values)))}
    for block in re.findall(r"^```python\n(.*?)^```", text, re.M | re.S):
        expected += re.findall(r"print\(.*\)  # (.*)", block)
        exec(compile(block.replace("http://127.0.0.1:8000", address), "serving.md", "exec"), namespace)
    namespace["client"].close()
    assert printed == expected
    assert len(printed) == 5
    for command in re.findall(r"^(curl .*?[^\\\\])\n", text, re.M | re.S):
        if "SERVE_KEYS" not in command and shutil.which("curl"):
            command = command.replace("http://127.0.0.1:8000", address)
            done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True, timeout=WAIT)
            assert done.stdout
            assert "error" not in done.stdout


def test_models_templates_and_keys(start, tmp_path, monkeypatch):
    for name in ("one", "two"):
        shutil.copytree(embedded_model(), tmp_path / name)
    (tmp_path / "two" / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages[0].content }}"}))
    monkeypatch.setenv("SOME_KEYS", "alpha, beta")
    _, address = start(str(tmp_path / "one"), str(tmp_path / "two"), "--api-key-env", "SOME_KEYS", "--max-body", "1")
    assert httpx.get(f"{address}/v1/models").status_code == 401
    with httpx.Client(base_url=address, headers={"Authorization": "Bearer beta"}, timeout=WAIT) as client:
        assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["one", "two"]
        chat = {"messages": [{"role": "user", "content": BODY["prompt"]}], "max_tokens": 5, "temperature": 0}
        answer = client.post("/v1/chat/completions", json={"model": "two", **chat})
        assert answer.json()["choices"][0]["message"]["content"] == "after"
        assert client.post("/v1/chat/completions", json={"model": "one", **chat}).status_code == 400
        assert client.post("/v1/completions", content=b" " * (2**20 + 1)).status_code == 413


def children_of(process):
    """Return the processes that a process has begun, and that are no zombies."""
    numbers = Path(f"/proc/{process.pid}/task").glob("*/children")
    pids = [int(pid) for file in numbers for pid in file.read_text().split()]
    return [pid for pid in pids if is_running(pid)]


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="processes are looked at in /proc")
def test_a_worker_that_is_killed_costs_no_request(start):
    process, address = start("--processes", "--device", "cpu,cpu")
    workers = children_of(process)
    assert len(workers) == 2
    body = {"model": "tiny-bitnet", "prompt": "A", "max_tokens": 500, "temperature": 0, "stream": True}
    with httpx.stream("POST", f"{address}/v1/completions", json=body, timeout=WAIT) as response:
        pieces = response.iter_text()
        text = next(pieces)
        for worker in workers:
            os.kill(worker, signal.SIGKILL)
        text += "".join(pieces)
    assert text.endswith("data: [DONE]\n\n")
    assert '"error"' not in text
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=WAIT)
    assert "exit code -9, SIGKILL" in err
    assert process.returncode == 130
    assert not any(map(is_running, workers))


def test_a_port_that_is_taken_is_an_error(start):
    _, address = start()
    port = address.rpartition(":")[2]
    command = [sys.executable, "-m", "bitnet_jit", "serve", "--port", port]
    result = subprocess.run(command, capture_output=True, text=True, timeout=WAIT)
    assert result.returncode == 1
    assert "address already in use" in result.stderr
    assert "Traceback" not in result.stderr


def test_missing_packages_are_named(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "uvicorn" else find(name))
    with pytest.raises(InvalidInput, match=r"uvicorn.*pip install 'bitnet-jit\[serve\]'"):
        module.check_packages()


def test_the_package_needs_none_of_them():
    code = """
import sys
for name in ("fastapi", "uvicorn", "jinja2", "prometheus_client", "starlette", "pydantic"):
    sys.modules[name] = None
import bitnet_jit.cli.app, bitnet_jit.engine
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=WAIT)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--api-key-env", "NO_SUCH_VARIABLE"], "NO_SUCH_VARIABLE"),
        (["--chat-template", "no/such/file"], "no/such/file"),
        (["--timeout", "0"], "request_s"),
        (["no/such/model"], "no/such/model"),
        (["--device", "cpu,toaster"], "toaster"),
    ],
)
def test_wrong_options_are_named(options, words, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(Exception, match=words):
        CliRunner().invoke(app, ["serve", *options], catch_exceptions=False)
