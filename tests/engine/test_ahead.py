"""Steps that are begun before the tokens of the one before have come: the engine's own tests hold there, too.

On a CPU a runner does not run ahead, but a step that is begun early gives the same logits there, so it can be told to.
"""

import pytest

from bitnet_jit.engine.text import ahead
from bitnet_jit.runner.runner import Runner
from tests.engine.devices.test_other_requests import test_nothing_is_lost_or_changed  # noqa: F401
from tests.engine.devices.test_replicas import (
    test_every_text_is_the_one_that_it_is_alone as test_every_text_is_the_same_where_devices_fail,  # noqa: F401
)
from tests.engine.devices.test_replicas import (  # noqa: F401
    test_histories,
    test_steps_that_do_not_fit_are_made_smaller,
    test_texts_take_turns_where_not_all_fit_into_a_step,
)
from tests.engine.test_engine import (  # noqa: F401
    test_a_deadline_ends_a_request,
    test_a_request_that_is_cancelled_frees_its_pages_and_others_go_on,
    test_a_stop_string_is_no_part_of_the_text,
    test_an_engine_that_is_abandoned_leaves_nobody_waiting,
    test_an_error_in_a_step_ends_its_requests_and_the_engine_serves_on,
    test_event_loops_and_threads_share_an_engine,
    test_every_text_is_the_one_that_it_is_alone,
    test_guesses_change_no_text_and_save_steps,
    test_logits_that_are_no_numbers_end_their_request_alone,
    test_logprobs_are_those_that_were_asked_for,
    test_logprobs_of_prompts_are_those_of_the_network,
    test_requests_lose_their_pages_and_go_on,
)
from tests.engine.test_step_errors import (  # noqa: F401
    test_an_error_that_comes_once_ends_nobody,
    test_one_request_of_eight_fails_alone,
    test_only_cursed_requests_fail,
    test_several_of_eight_fail_within_few_steps,
)


@pytest.fixture(autouse=True, scope="module")
def begun():
    """Let all runners run ahead; return the steps that were begun early."""
    steps = []
    begin = ahead.begin

    def noted(*arguments):
        steps.append(begin(*arguments))
        return steps[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Runner, "runs_ahead", property(lambda self: True))
        patch.setattr("bitnet_jit.engine.text.writer.begin", noted)
        yield steps


@pytest.mark.parametrize("count", [1, 3, 17])
def test_steps_are_begun_while_nobody_waits(begun, make_engine, tiny, count):
    del begun[:]
    engine = make_engine()
    waiting = [engine.submit("tiny", f"And {number} came to pass ", 20 + number) for number in range(count)]
    texts = [one.result() for one in waiting]
    assert sum(step is not None for step in begun) >= 15
    for number, text in enumerate(texts):
        prompt = tiny.tokenizer.encode(f"And {number} came to pass ")
        assert text.tokens == tiny.generate(prompt, 20 + number)[len(prompt) :].tolist()
    replica = engine.model("tiny").replica
    assert replica.scheduler.cache.pool.num_free + len(replica.scheduler.prefixes) == replica.num_pages
