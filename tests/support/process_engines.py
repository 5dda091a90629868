"""Engines whose workers are processes, and what the system does to those."""

import gc
import os
import signal
import threading
from contextlib import contextmanager

from served import wait_until

from bitnet_jit.engine import EngineConfig, InferenceEngine

WAIT = 60  # seconds for what takes few: processes start meanwhile


@contextmanager
def serving(replicas=2, **options):
    """Run an engine that has the small decoder as "tiny" in processes; yield it and its workers."""
    with InferenceEngine(EngineConfig(processes=True, **options)) as engine:
        model = engine.load_model(None, "tiny", devices=["cpu"] * replicas).result()
        yield engine, model.replica.members


def kill(member, number=signal.SIGKILL):
    """Send a signal to the process of a worker; return whether there was one."""
    if (pid := member.pid) is None:
        return False
    os.kill(pid, number)
    return True


def kill_and_wait(member):
    """Kill the process of a worker, and wait until that has been noticed."""
    pid = member.pid
    assert kill(member)
    wait_until(lambda: member.pid != pid, WAIT)


def wait_ready(members):
    """Wait until all processes run."""
    wait_until(lambda: all(member.is_ready for member in members), WAIT)


def is_running(pid):
    """Return whether a process is there, and no zombie."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def held():
    """Return this process's open files, and its threads of workers."""
    gc.collect()
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("bitnet-jit tiny")]
    return len(os.listdir("/proc/self/fd")), len(threads)
