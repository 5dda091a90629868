"""`Slots` and `Deadlines`: no place is lost or given twice, whoever waits or leaves; functions run at their times."""

import asyncio
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from bitnet_jit.engine.tensors.deadlines import Deadlines
from bitnet_jit.engine.tensors.slots import Slots
from bitnet_jit.errors import EngineClosed, QueueFull


@pytest.mark.parametrize("seed", range(5))
def test_no_slot_is_lost_or_taken_twice(seed):
    """Threads and tasks of two event loops take, wait too short, are cancelled, and give back."""
    slots, held, most = Slots(3), [], []

    def hold():
        held.append(None)
        most.append(len(held))

    def give_back():
        held.pop()
        slots.release()

    def in_a_thread(number):
        chance = random.Random(seed * 1000 + number)
        for _ in range(60):
            try:
                slots.acquire(chance.choice([None, 0, 1e-4, 1e-3]))
            except QueueFull:
                continue
            hold()
            time.sleep(chance.random() * 1e-4)
            give_back()

    async def task(chance):
        await slots.acquire_async()
        hold()
        try:
            await asyncio.sleep(chance.random() * 1e-4)
        finally:
            give_back()

    async def in_a_loop(number):
        chance = random.Random(seed * 1000 + number)
        for _ in range(20):
            tasks = [asyncio.create_task(task(chance)) for _ in range(6)]
            await asyncio.sleep(chance.random() * 1e-3)
            for one in tasks:
                if chance.random() < 0.4:
                    one.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    with ThreadPoolExecutor(5) as pool:
        jobs = [pool.submit(in_a_thread, number) for number in range(3)]
        jobs += [pool.submit(asyncio.run, in_a_loop(number)) for number in range(3, 5)]
        for job in jobs:
            job.result(30)
    assert max(most) == 3
    assert slots.free == 3


def test_the_first_in_the_line_is_the_first_served():
    slots, order = Slots(1), []
    slots.acquire()

    async def take(name):
        await slots.acquire_async()
        order.append(name)
        slots.release()

    async def run():
        tasks = [asyncio.create_task(take(name)) for name in range(5)]
        await asyncio.sleep(0)
        slots.release()
        await asyncio.gather(*tasks)

    asyncio.run(run())
    assert order == [0, 1, 2, 3, 4]


def test_closing_refuses_those_who_wait_and_those_who_come():
    slots = Slots(1)
    slots.acquire()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(slots.acquire)
        while not slots._waiting:
            time.sleep(1e-4)
        slots.close("gone")
        with pytest.raises(EngineClosed, match="gone"):
            waiting.result(10)
    with pytest.raises(EngineClosed, match="gone"):
        slots.acquire()
    with pytest.raises(EngineClosed, match="gone"):
        asyncio.run(slots.acquire_async())


def test_functions_are_called_in_the_order_of_their_times():
    deadlines, called, done = Deadlines(), [], threading.Event()
    begin = time.monotonic()
    for number in (3, 1, 2, 1):
        deadlines.call_in(0.02 * number, lambda number=number: called.append((number, time.monotonic() - begin)))
    deadlines.call_in(0.08, done.set)
    assert done.wait(10)
    deadlines.close()
    assert [number for number, _ in called] == [1, 1, 2, 3]
    assert all(after >= 0.02 * number for number, after in called)


def test_a_time_that_comes_before_all_others_is_kept():
    deadlines, called = Deadlines(), threading.Event()
    deadlines.call_in(100, lambda: None)
    time.sleep(0.02)  # the thread waits for it
    deadlines.call_in(0.01, called.set)
    assert called.wait(10)
    deadlines.close()


def test_forgotten_functions_are_not_called_and_take_no_memory():
    deadlines, called = Deadlines(), []
    forget = [deadlines.call_in(0.5 if n % 2 else 100, lambda: called.append(1)) for n in range(1000)]
    for function in forget:
        function()
        function()
    assert len(deadlines._heap) <= 1
    time.sleep(0.6)
    assert called == []
    deadlines.close()
    deadlines.call_in(0, lambda: called.append(2))
    time.sleep(0.01)
    assert called == []
