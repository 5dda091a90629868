"""Shielded work is never cut in two: by a signal, by a fork, by another thread."""

import contextvars
import os
import signal
import threading
import time

import pytest

from bitnet_jit.system.shielded import shielded

VARIABLE = contextvars.ContextVar("variable", default=0)


class Alarm(Exception):
    """The exception of a signal handler."""


def test_results_errors_and_context_are_those_of_a_plain_call():
    VARIABLE.set(3)
    assert shielded(lambda a, *, b: (a, b, VARIABLE.get()), 1, b=2) == (1, 2, 3)
    with pytest.raises(ZeroDivisionError):
        shielded(lambda: 1 / 0)
    assert shielded(shielded, shielded, int, "7") == 7
    with pytest.raises(SystemExit):
        shielded(exit)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGALRM])
def test_the_exception_of_a_signal_handler_comes_when_the_work_is_done(number):
    done = []

    def work():
        time.sleep(0.1)
        os.kill(os.getpid(), number)
        time.sleep(0.2)
        done.append(True)

    def raises(*_):
        raise Alarm

    before = signal.signal(number, raises)
    try:
        with pytest.raises(Alarm):
            shielded(work)
    finally:
        signal.signal(number, before)
    assert done == [True]


def test_a_second_signal_is_not_kept_waiting():
    free, done = threading.Event(), threading.Event()

    def work():
        for _ in range(2):
            time.sleep(0.1)
            os.kill(os.getpid(), signal.SIGINT)
        free.wait(10)
        done.set()

    with pytest.raises(KeyboardInterrupt):
        shielded(work)
    assert not done.is_set()
    free.set()
    assert shielded(done.is_set)  # which waits for the lock


def test_work_of_several_threads_takes_turns():
    running, most = [], []

    def work():
        running.append(1)
        most.append(len(running))
        time.sleep(0.01)
        running.pop()

    threads = [threading.Thread(target=shielded, args=(work,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    shielded(work)
    for thread in threads:
        thread.join()
    assert most == [1] * 9


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")  # Python's word on forks beside threads
def test_a_fork_waits_for_the_work_of_another_thread():
    begun, ended = threading.Event(), []

    def work():
        begun.set()
        time.sleep(0.3)
        ended.append(True)

    thread = threading.Thread(target=shielded, args=(work,))
    thread.start()
    begun.wait(5)
    child = os.fork()
    if child == 0:
        os._exit(0 if ended and shielded(int, "5") == 5 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    thread.join()


def test_where_no_thread_can_be_started_the_work_is_done_all_the_same(monkeypatch):
    def refuse(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert shielded(int, "3") == 3
