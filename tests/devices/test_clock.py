"""Times in turns: how many calls, of whom, counted by which clock."""

from bitnet_jit.devices.clock import TURNS, WARM_CALLS, in_turns


class Clock:
    """Stands still but while somebody works."""

    def __init__(self):
        self.now, self.worked = 0, []

    def __call__(self):
        return self.now

    def worker(self, name, microseconds):
        def run():
            self.worked.append(name)
            self.now += int(microseconds * 1000)

        return run


def test_each_gets_its_seconds_and_at_least_a_call_a_turn():
    clock = Clock()
    slow, quick = in_turns([clock.worker("slow", 900.0), clock.worker("quick", 10.0)], 0.001, clock)
    assert slow == [900.0] * TURNS
    assert quick == [10.0] * (20 * TURNS)  # a fifth of a millisecond a turn


def test_contenders_take_turns_and_warm_up_in_each():
    clock = Clock()
    in_turns([clock.worker("a", 5.0), clock.worker("b", 5.0)], 0.0, clock)
    assert clock.worked == (["a"] * (WARM_CALLS + 1) + ["b"] * (WARM_CALLS + 1)) * TURNS


def test_what_slows_the_machine_down_for_a_turn_slows_all():
    clock = Clock()
    load = iter([1.0] * 4 + [3.0] * 4 + [1.0] * 12)

    def worker(microseconds):
        def run():
            clock.now += int(microseconds * next(load) * 1000)

        return run

    a, b = in_turns([worker(10.0), worker(20.0)], 0.0, clock)
    assert (a, b) == ([10.0, 30.0, 10.0, 10.0, 10.0], [20.0, 60.0, 20.0, 20.0, 20.0])
