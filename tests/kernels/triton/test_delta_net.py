"""The gated DeltaNet by the Triton kernels: against the reference, and the same bits in any schedule."""

import pytest
import torch
from delta_calls import (
    Heads,
    Texts,
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
from triton_calls import DEVICE, ON_GPU, needs_device

from bitnet_jit.kernels.triton.delta_net import tokens

pytestmark = needs_device
KERNEL = kernel_of("triton")
HALF = torch.bfloat16 if ON_GPU else torch.float16  # the interpreter cuts bfloat16 off
MODELS = (
    Heads(1, 2, 8, 16),
    Heads(1, 3, 5, 7, 3),
    Heads(2, 2, 17, 33, 2, HALF),
    *((Heads(16, 32, 128, 128, 4, torch.bfloat16),) if ON_GPU else (Heads(1, 1, 128, 40, 4, torch.float16),)),
)
LENGTHS = (1, 3, 17, 130) if ON_GPU else (1, 2, 4)  # an interpreted token takes a twentieth of a second
few = settings(max_examples=min(settings.default.max_examples, 20 if ON_GPU else 2))


def run(arguments):
    """Call the kernel on its device with arguments of the CPU, whose caches it writes."""
    there = [a.to(DEVICE) for a in arguments]
    y = run_kernel(KERNEL, there)
    for place in (5, 6):
        arguments[place].copy_(there[place])
    return y.cpu()


@pytest.mark.parametrize("model", MODELS, ids=str)
@few
@given(data=st.data())
def test_it_computes_what_the_reference_does(model, data):
    lengths = data.draw(st.lists(st.sampled_from(LENGTHS), min_size=1, max_size=2))
    texts = make_texts(model, lengths, data.draw(st.integers(0, 2**32 - 1)), data.draw(st.sampled_from((1e-3, 1, 8))))
    caches = texts.caches()
    for parts, padding, spread in data.draw(schedules(lengths)):
        arguments = texts.call(parts, caches, padding, spread)
        expected = expected_of(arguments)
        assert_near(run(arguments), caches, expected, model.dtype)


@pytest.mark.parametrize("model", MODELS, ids=str)
@few
@given(data=st.data())
def test_any_schedule_gives_the_same_bits(model, data):
    lengths = data.draw(st.lists(st.sampled_from(LENGTHS), min_size=1, max_size=2))
    texts = make_texts(model, lengths, data.draw(st.integers(0, 2**32 - 1)))
    first, second = (run_schedule(run, texts, data.draw(schedules(lengths))) for _ in range(2))
    assert_same_bits(first, second)


def test_states_of_others_are_left_alone():
    texts = make_texts(MODELS[0], [3, 2, 2])
    caches = texts.caches()
    before = [cache.fill_(7).clone() for cache in caches]
    arguments = texts.call([(0, 1, 2), (1, 0, 0)], caches, 1)
    arguments[9][1] = texts.slots[2]  # of no meaning
    run(arguments)
    for slot in {0, 1, 2, 3, 4} - {texts.slots[0]}:
        assert all(torch.equal(cache[slot], old[slot]) for cache, old in zip(caches, before, strict=True))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy in the interpreter, of NaN
@pytest.mark.parametrize("size", [1e3, torch.inf])
def test_huge_gates_forget_or_keep_all(size):
    texts = make_texts(MODELS[0], [4])
    texts.beta_alpha[0][:, ::2] = torch.where(texts.beta_alpha[0][:, ::2] > 0, size, -size)
    caches = texts.caches()
    arguments = texts.call([(0, 0, 4)], caches)
    expected = expected_of(arguments)
    assert_near(run(arguments), caches, expected, torch.float32)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_what_is_not_finite_stays_in_its_head_whatever_padding_is_between():
    texts = make_texts(MODELS[0], [5, 2])
    right, _ = run_schedule(run, texts, [([(0, 0, 5), (1, 0, 2)], 0, ())])
    texts.mixed[0][2, 2 * 8 + 16] = torch.nan  # a value of the second head
    y, caches = run_schedule(run, texts, [([(0, 0, 5), (1, 0, 2)], 0, ())])
    assert torch.equal(y[1], right[1])
    assert torch.equal(y[0][:, :16], right[0][:, :16])
    assert torch.equal(y[0][:2], right[0][:2])
    assert y[0][2:, 16].isnan().all()
    assert_same_bits(
        (y, caches), run_schedule(run, texts, [([(0, 0, 4), (1, 0, 2)], 1, (3, 3)), ([(0, 4, 1)], 0, (0,))])
    )


def test_tokens_may_be_rows_of_a_wider_tensor():
    model = Heads(1, 2, 8, 16)
    texts = make_texts(model, [3])
    arguments = texts.call([(0, 0, 3)], texts.caches())
    expected = run(arguments)
    for width, first in ((3 * model.width, model.width), (2 * model.width + 1, 1)):  # read where it is, and copied
        wider = torch.full((3, width), torch.nan)
        wider[:, first : first + model.width] = arguments[0]
        caches = texts.caches()
        there = [a.to(DEVICE) for a in (wider, *arguments[1:5], *caches, *arguments[7:])]
        y = run_kernel(KERNEL, [there[0][:, first : first + model.width], *there[1:]])
        assert torch.equal(y.cpu(), expected)
        assert torch.equal(there[6][texts.slots[0]].cpu(), arguments[6][texts.slots[0]])


def test_many_sequences_are_told_apart(monkeypatch):
    """More than are looked at together."""
    model, count = Heads(1, 1, 1, 1, 2), 130 if ON_GPU else 5
    if not ON_GPU:
        monkeypatch.setattr(tokens, "SEQUENCES", type(tokens.SEQUENCES)(2))
    one = make_texts(model, [1])
    texts = Texts(model, one.mixed * count, one.beta_alpha * count, one.weights, list(range(count - 1, -1, -1)))
    caches = [torch.zeros(count, *cache.shape[1:]) for cache in one.caches()]
    arguments = texts.call([(r, 0, 1) for r in range(count)], caches)
    y = run(arguments)
    assert torch.equal(y, y[:1].expand_as(y))
    assert y.any()
    assert torch.equal(caches[1], caches[1][:1].expand_as(caches[1]))
