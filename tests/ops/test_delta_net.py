"""`delta_net` on CPUs: both kernels against the reference and transformers, and against themselves in any schedule."""

import pytest
import torch
from delta_calls import (
    LENGTHS,
    SLOTS,
    Heads,
    assert_near,
    assert_same_bits,
    expected_of,
    kernel_of,
    make_texts,
    run_kernel,
    run_schedule,
    schedules,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from bitnet_jit.devices.threads import THREADS
from bitnet_jit.errors import InvalidInput
from bitnet_jit.ops import calls
from bitnet_jit.ops.delta_net import DELTA_NET, delta_net
from bitnet_jit.ops.program import record

NUMBA, PLAIN = kernel_of("numba"), kernel_of("torch")
MODELS = (
    Heads(),
    Heads(1, 3, 5, 7, 3),  # less than a register
    Heads(3, 3, 17, 33, 2, torch.bfloat16),  # a register and one column
    Heads(1, 2, 128, 80, 4, torch.float16),  # whole tiles and registers
    Heads(1, 1, 1, 1),
)
NAMES = [argument.name for argument in DELTA_NET.spec.arguments]


def whole(texts):
    """The call of all sequences as they are."""
    return [([(r, 0, len(rows)) for r, rows in enumerate(texts.mixed)], 0, ())]


def by(kernel):
    return lambda arguments: run_kernel(kernel, arguments)


@pytest.mark.parametrize("kernel", [NUMBA, PLAIN], ids=lambda kernel: kernel.name)
@pytest.mark.parametrize("model", MODELS, ids=str)
@settings(max_examples=5)
@given(data=st.data())
def test_it_computes_what_the_reference_does(kernel, model, data):
    lengths = data.draw(st.lists(st.sampled_from(LENGTHS), min_size=1, max_size=3))
    texts = make_texts(model, lengths, data.draw(st.integers(0, 2**32 - 1)), data.draw(st.sampled_from((1e-3, 1, 8))))
    caches = texts.caches()
    for parts, padding, spread in data.draw(schedules(lengths)):
        arguments = texts.call(parts, caches, padding, spread)
        expected = expected_of(arguments)
        assert_near(run_kernel(kernel, arguments), caches, expected, model.dtype)


@pytest.mark.parametrize(("kernel", "examples"), [(NUMBA, 25), (PLAIN, 2)], ids=["numba", "torch"])
@pytest.mark.parametrize("model", MODELS, ids=str)
def test_any_schedule_gives_the_same_bits(kernel, examples, model):
    @settings(max_examples=examples)
    @given(data=st.data())
    def check(data):
        lengths = data.draw(st.lists(st.sampled_from(LENGTHS), min_size=1, max_size=4))
        texts = make_texts(model, lengths, data.draw(st.integers(0, 2**32 - 1)))
        first, second = (run_schedule(by(kernel), texts, data.draw(schedules(lengths))) for _ in range(2))
        assert_same_bits(first, second)
        assert_same_bits(first, run_schedule(by(kernel), texts, whole(texts)))

    check()


def test_threads_give_the_same_bits():
    texts = make_texts(Heads(4, 8, 64, 64), [70, 33, 1])
    before = THREADS.get()
    try:
        results = []
        for threads in (1, 2, 3):
            THREADS.set(threads)
            results.append(run_schedule(by(NUMBA), texts, whole(texts)))
    finally:
        THREADS.set(before)
    assert_same_bits(results[0], results[1])
    assert_same_bits(results[0], results[2])


@pytest.mark.parametrize("kernel", [NUMBA, PLAIN], ids=lambda kernel: kernel.name)
def test_other_slots_and_sequences_without_tokens_are_left_alone(kernel):
    texts = make_texts(Heads(), [9, 4, 2])
    caches = texts.caches()
    before = [cache.fill_(7).clone() for cache in caches]
    arguments = texts.call([(0, 3, 6), (1, 0, 0), (2, 1, 1)], caches, 1)
    arguments[9][1] = texts.slots[0]  # of no meaning
    run_kernel(kernel, arguments)
    for slot in set(range(SLOTS)) - {texts.slots[0], texts.slots[2]}:
        assert all(torch.equal(cache[slot], old[slot]) for cache, old in zip(caches, before, strict=True))


@pytest.mark.parametrize("kernel", [NUMBA, PLAIN], ids=lambda kernel: kernel.name)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("place", ["q", "v", "a", "b"])
def test_a_bad_number_stays_in_its_head_and_sequence_from_its_token_on(kernel, bad, place):
    model = Heads(2, 4, 8, 16)
    texts = make_texts(model, [12, 5])
    right, _ = run_schedule(by(kernel), texts, whole(texts))
    column = {"q": 3, "v": 2 * 2 * 8 + 16 + 5, "a": 4 + 1, "b": 1}[place]
    (texts.mixed if place in "qv" else texts.beta_alpha)[0][6, column] = bad
    y, _ = run_schedule(by(kernel), texts, whole(texts))
    heads = y[0].view(12, 4, 16)
    reached = {0, 1} if place == "q" else {1}
    assert torch.equal(y[1], right[1])
    assert torch.equal(y[0][:6], right[0][:6])
    for head in range(4):
        same = torch.equal(heads[:, head], right[0].view(12, 4, 16)[:, head])
        assert same == (head not in reached)
    gates_saturate = place in "ab" and not torch.tensor(bad).isnan()
    assert heads[6, 1].isfinite().all() == gates_saturate


@pytest.mark.parametrize("kernel", [NUMBA, PLAIN], ids=lambda kernel: kernel.name)
@pytest.mark.parametrize("size", [1e3, 1e30, torch.inf])
def test_huge_gates_forget_or_keep_all(kernel, size):
    texts = make_texts(Heads(), [20])
    texts.beta_alpha[0][:, ::2] = torch.where(texts.beta_alpha[0][:, ::2] > 0, size, -size)
    caches = texts.caches()
    arguments = texts.call([(0, 0, 20)], caches)
    expected = expected_of(arguments)
    assert_near(run_kernel(kernel, arguments), caches, expected, torch.float32)


@pytest.mark.parametrize("op", [delta_net, torch.ops.bitnet_jit.delta_net])
def test_tokens_may_be_rows_of_a_wider_tensor(op):
    texts = make_texts(Heads(), [9])
    caches, again = texts.caches(), texts.caches()
    arguments = texts.call([(0, 0, 9)], caches)
    expected = op(*arguments)
    for wider in (
        torch.full((9, 3 * texts.model.width), torch.nan),
        torch.full((9, 2 * texts.model.width + 1), torch.nan),
    ):
        wider[:, texts.model.width : 2 * texts.model.width] = arguments[0]
        part = wider[:, texts.model.width : 2 * texts.model.width]
        assert torch.equal(op(part, *arguments[1:5], *again, *arguments[7:]), expected)
        assert all(
            torch.equal(
                a,
                b,
            )
            for a, b in zip(caches, again, strict=True)
            if not a.isnan().any()
        )
        assert torch.equal(caches[1][texts.slots[0]], again[1][texts.slots[0]])


def test_a_recorded_step_does_the_same_again():
    texts = make_texts(Heads(), [9, 5])
    caches, again = texts.caches(), texts.caches()
    parts = [(0, 0, 4), (1, 0, 5)]
    arguments = texts.call(parts, again, 1)
    wider = torch.cat((arguments[0], arguments[0]), 1)
    expected = delta_net(*texts.call(parts, caches, 1))
    run, y = record(lambda: delta_net(wider[:, : texts.model.width], *arguments[1:]))
    assert run.recorder.names == ["delta_net"]
    for _ in range(2):
        run()
        assert torch.equal(y, expected)
    assert torch.equal(caches[1][texts.slots], again[1][texts.slots])


def test_calls_are_kept_whatever_their_tokens_and_sequences():
    texts = make_texts(Heads(), [67, 33, 17])
    calls.forget()
    caches = texts.caches()
    for step in range(16):
        parts = [(r, step, 1) for r in range(1 + step % 3)]
        delta_net(*texts.call(parts, caches, step % 4))
    assert len(DELTA_NET.calls) <= 4  # buckets of rows


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("mixed", lambda a: a[:, :-1], r"mixed: expected .* \(\.\.\., KV \* 16 \+ 64\) with KV a divisor of 4, got"),
        ("mixed", lambda a: torch.cat((a, a[:, :16]), 1), "mixed: expected"),  # three key heads for four
        ("mixed", lambda a: a.double(), "mixed: expected float32, bfloat16, float16"),
        ("beta_alpha", lambda a: a[:, :-1], r"beta_alpha: expected float32 \(.*, 8\)"),
        ("conv_weight", lambda a: torch.cat((a, a), 1), "conv_weight: expected float32 .*J from 1 to 3"),
        ("decay", lambda a: a[1:], r"decay: expected float32 \(4,\)"),
        ("history", lambda a: a[:, 1:], "history: expected float32"),
        ("history", lambda a: a.bfloat16(), "history: expected float32 .* as mixed"),
        ("states", lambda a: a.transpose(2, 3).contiguous().transpose(2, 3), "states: is written into"),
        ("states", lambda a: a[1:], "states|history"),
        ("positions", lambda a: a.long(), "positions: expected int32"),
        ("starts", lambda a: a[:1], "starts: expected int32"),
        ("slots", lambda a: torch.cat((a, a)), "slots: expected int32"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_written(name, change, words):
    texts = make_texts(Heads(), [5])
    caches = texts.caches()
    arguments = dict(zip(NAMES, texts.call([(0, 0, 5)], caches), strict=True))
    arguments[name] = change(arguments[name])
    with pytest.raises(InvalidInput, match=words):
        delta_net(*arguments.values())
    assert all(cache.isnan().all() for cache in caches)


@pytest.mark.parametrize("rule", ["torch_recurrent_gated_delta_rule", "torch_chunk_gated_delta_rule"])
@pytest.mark.parametrize("model", [Heads(2, 4, 16, 24), Heads(3, 3, 8, 8, 4)], ids=str)
def test_transformers_computes_the_same(rule, model):
    modeling = pytest.importorskip("transformers.models.qwen3_next.modeling_qwen3_next")
    texts = make_texts(model, [67])
    (mixed,), (beta_alpha,), (weight, decay, bias) = texts.mixed, texts.beta_alpha, texts.weights
    convolved = torch.nn.functional.conv1d(mixed.T[None], weight[:, None], padding=model.taps - 1, groups=model.width)[
        0, :, : len(mixed)
    ]
    keys = model.key_heads * model.dk
    q, k, v = torch.nn.functional.silu(convolved.T)[None].split((keys, keys, model.heads * model.dv), -1)
    q, k = (x.unflatten(-1, (-1, model.dk)).repeat_interleave(model.heads // model.key_heads, 2) for x in (q, k))
    b, a = beta_alpha[None].chunk(2, -1)
    g = decay * torch.nn.functional.softplus(a + bias)
    options = {"initial_state": None, "output_final_state": True, "use_qk_l2norm_in_kernel": True}
    wanted, state = getattr(modeling, rule)(q, k, v.unflatten(-1, (-1, model.dv)), g=g, beta=b.sigmoid(), **options)
    (y,), (_, states) = run_schedule(by(NUMBA), texts, whole(texts))
    torch.testing.assert_close(y, wanted[0].flatten(1), rtol=1e-4, atol=2e-5)
    torch.testing.assert_close(states[texts.slots[0]], state[0], rtol=1e-4, atol=2e-5)
