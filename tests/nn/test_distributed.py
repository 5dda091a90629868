"""Layers train under data parallelism as in one process; the checks of two processes are in `distributed/`."""

import json
import os
import socket
import subprocess
import sys
import time
from itertools import product
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import bitnet_jit

WORKER = Path(__file__).parent / "distributed" / "worker.py"
WORLD = 2
SECONDS = 120  # that a check may take, the start of its processes included
GRACE = 5  # seconds that the others have to say how they failed, too

pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()),
    reason="this torch is built without torch.distributed or gloo",
)


class Workers:
    """Processes that go through checks together; they start for the first check, and again after one that fails."""

    def __init__(self, device, root):
        self.device, self.root = device, root
        self.processes, self.folder, self.sent, self.starts = [], root, 0, 0

    def check(self, name, **options):
        """Fail with the answers of the processes, unless all are empty."""
        if not self.processes:
            self.start()
        for process in self.processes:
            process.stdin.write(json.dumps([name, options]) + "\n")
            process.stdin.flush()
        errors = self.answers()
        self.sent += 1
        if any(errors):
            self.end()
            pytest.fail("\n".join(f"rank {rank}: {error or 'no error'}" for rank, error in enumerate(errors)), False)

    def start(self):
        self.starts += 1
        self.folder, self.sent = self.root / str(self.starts), 0
        self.folder.mkdir()
        for rank in range(WORLD):
            with (self.folder / f"log.{rank}").open("w") as log:
                command = [sys.executable, WORKER, self.device, str(rank), self.folder]
                self.processes.append(
                    subprocess.Popen(
                        command, stdin=subprocess.PIPE, stdout=log, stderr=log, text=True, env=environment()
                    )
                )

    def answers(self):
        """Return the answer of each process to a check, once all have answered or one has not in time."""
        files = [self.folder / f"{self.sent}.{rank}" for rank in range(WORLD)]
        deadline = time.monotonic() + SECONDS
        while not all(file.exists() for file in files) and time.monotonic() < deadline:
            if any(process.poll() is not None for process in self.processes):
                deadline = min(deadline, time.monotonic() + GRACE)
            time.sleep(0.005)
        return [file.read_text("utf-8") if file.exists() else self.silence(i) for i, file in enumerate(files)]

    def silence(self, rank):
        """Describe a process that gives no answer."""
        code, log = self.processes[rank].poll(), (self.folder / f"log.{rank}").read_text(errors="replace")
        return f"{'no answer' if code is None else f'ended with code {code}'}\n{log[-4000:]}"

    def end(self):
        """End all processes."""
        for process in self.processes:
            process.kill()
            process.wait()
            process.stdin.close()
        self.processes = []


def environment():
    """Return the environment of a process: this package, one thread, and the network of this machine alone."""
    paths = [str(Path(bitnet_jit.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    loopback = [("GLOO_SOCKET_IFNAME", name) for _, name in socket.if_nameindex() if name in ("lo", "lo0")]
    settings = {"OMP_NUM_THREADS": "1", "CUBLAS_WORKSPACE_CONFIG": ":4096:8", "PYTHONFAULTHANDLER": "1"}
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)} | settings | dict(loopback)


ON_GPUS = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < WORLD, reason="there are no two CUDA or ROCm devices"),
]


@pytest.fixture(scope="module", params=["cpu", pytest.param("cuda", marks=ON_GPUS)])
def workers(request, tmp_path_factory):
    started = Workers(request.param, tmp_path_factory.mktemp("workers"))
    yield started
    started.end()


def each(*cases):
    """Parametrize a test by cases, each named by its options."""
    ids = [", ".join(key if value is True else str(value) for key, value in case.items() if value) for case in cases]
    return pytest.mark.parametrize("options", cases, ids=[name or "plain" for name in ids])


RUNS = ("eager", "compiled inside", "compiled around")


@each(
    *({"run": run, "autocast": autocast} for run, autocast in product(RUNS, (False, True))),
    {"static_graph": True},
    {"checkpoint": "not reentrant"},
    {"checkpoint": "reentrant", "static_graph": True},
    {"run": "compiled inside", "checkpoint": "not reentrant", "autocast": True},
)
def test_ddp_on_the_same_rows_is_training_in_one_process(workers, options):
    workers.check("ddp_on_the_same_rows", **options)


@each(
    {},
    {"autocast": True},
    {"keep": True},
    {"low": True},
    {"low": True, "keep": True},
    {"checkpoint": "not reentrant"},
    {"checkpoint": "reentrant", "keep": True, "autocast": True},
    {"offload": True},
    {"run": "compiled inside"},
    {"run": "compiled inside", "low": True, "checkpoint": "not reentrant"},
    {"run": "compiled around", "autocast": True},
)
def test_fsdp_on_the_same_rows_is_training_in_one_process(workers, options):
    workers.check("fsdp_on_the_same_rows", **options)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("wrap", ["ddp", "fsdp1", "fsdp2", "factors"])
def test_lora_on_the_same_rows_is_training_in_one_process(workers, wrap, autocast):
    workers.check("lora_on_the_same_rows", wrap=wrap, autocast=autocast)


def test_packed_layers_that_fsdp_does_not_ignore_are_refused(workers):
    workers.check("packed_layers_that_are_not_ignored")


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("wrap", ["ddp", "fsdp"])
def test_gradients_of_halves_are_those_of_the_whole_batch(workers, wrap, parts, autocast):
    workers.check("gradients_of_halves", wrap=wrap, parts=parts, autocast=autocast)


@pytest.mark.parametrize("wrap", ["ddp", "fsdp"])
def test_a_decoder_on_the_same_rows_trains_as_in_one_process(workers, wrap):
    workers.check("decoder_on_the_same_rows", wrap=wrap)


def test_layers_that_a_process_does_not_use(workers):
    workers.check("layers_that_a_process_does_not_use")


def test_a_sharded_layer_without_its_hooks_is_refused(workers):
    workers.check("a_sharded_layer_without_its_hooks")


def test_tensors_in_parts_are_refused(workers):
    workers.check("tensors_in_parts")


@pytest.mark.parametrize("style", ["columns", "rows"])
def test_tensor_parallel_layers_are_refused(workers, style):
    workers.check("tensor_parallel", style=style)
