"""Windows of a text: the drawn ones, the held-out ones, and the bits per byte."""

import pytest
import torch

import bitnet_jit
from bitnet_jit.checkpoints.embedded import embedded_model
from bitnet_jit.errors import InvalidInput
from bitnet_jit.training.text import bits_per_byte, draw, read_text, split

TEXT = torch.arange(2000, dtype=torch.int64).remainder(251).to(torch.uint8)


def test_windows_are_a_matter_of_seed_and_step():
    first = draw(TEXT, 4, 16, seed=3, step=7)
    assert first.shape == (4, 17)
    assert first.dtype == torch.int64
    assert torch.equal(first, draw(TEXT, 4, 16, seed=3, step=7))
    assert not torch.equal(first, draw(TEXT, 4, 16, seed=3, step=8))
    assert not torch.equal(first, draw(TEXT, 4, 16, seed=4, step=7))


def test_windows_are_pieces_of_the_text_from_its_first_byte_to_its_last():
    text = torch.arange(20, dtype=torch.uint8)
    windows = draw(text, 500, 16, seed=0, step=0)
    assert torch.equal(windows - windows[:, :1], torch.arange(17).expand(500, 17))
    assert (windows.min(), windows.max()) == (0, 19)


def test_the_end_is_held_out():
    learned, judged = split(TEXT, 16)
    assert len(judged) == 100
    assert torch.equal(torch.cat([learned, judged]), TEXT)
    assert len(split(TEXT[:40], 16)[1]) == 16
    with pytest.raises(InvalidInput, match=r"text: expected more than 32 bytes, .* got 32"):
        split(TEXT[:32], 16)


def test_files_that_cannot_be_read_or_are_short_are_named(tmp_path):
    file = tmp_path / "text"
    with pytest.raises(InvalidInput, match=r"text: .*text cannot be read \(No such file"):
        read_text(file, "text", 16)
    file.write_bytes(bytes(16))
    with pytest.raises(InvalidInput, match=r"validation: expected more than window=16 bytes, .* has 16"):
        read_text(file, "validation", 16)
    file.write_bytes(bytes(range(17)))
    assert torch.equal(read_text(file, "text", 16), torch.arange(17, dtype=torch.uint8))


def test_a_byte_of_which_nothing_is_known_costs_eight_bits():
    cost = bits_per_byte(lambda windows: torch.zeros(*windows.shape, 256), TEXT, window=64, batch=3)
    assert cost == pytest.approx(8.0)


def test_a_byte_that_is_foreseen_costs_nothing():
    def foresees(windows):
        return 100.0 * torch.nn.functional.one_hot((windows + 1) % 251, 256)

    assert bits_per_byte(foresees, TEXT, window=50, batch=64) == pytest.approx(0.0, abs=1e-6)


def test_the_cost_is_the_mean_over_all_windows_whatever_the_batch():
    model = bitnet_jit.load(embedded_model())
    text = torch.frombuffer(
        bytearray(b"And God said, Let there be light: and there was light. ") * 6, dtype=torch.uint8
    )
    costs = [bits_per_byte(model, text, window=40, batch=batch) for batch in (1, 3, 100)]
    assert costs == pytest.approx([costs[0]] * 3, rel=1e-5)
    assert costs[0] < 2.5
