"""Tensors in huge pages: disjoint memory of their own sizes, given back with them, and torch's where there is none."""

import copy
import gc
import io
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitnet_jit import PackedBitLinear
from bitnet_jit.devices import huge_pages
from bitnet_jit.devices.huge_pages import ALIGN, CHUNK_BYTES, HUGE_BYTES, HUGE_PAGES, MIN_BYTES, HugePages, available
from bitnet_jit.models.head import stored_head

DTYPES = (torch.uint8, torch.int8, torch.bfloat16, torch.float32)
needs_huge_pages = pytest.mark.skipif(not available(), reason="this system gives no huge pages to who asks")


def flags_at(address: int) -> list[str]:
    """Return the kernel's flags of the mapping in which an address lies."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        words = line.split()
        if "-" in words[0] and ":" not in words[0]:
            first, last = (int(word, 16) for word in words[0].split("-"))
            inside = first <= address < last
        elif inside and words[0] == "VmFlags:":
            return words[1:]
    return []


@given(st.lists(st.tuples(st.integers(1, 2 * CHUNK_BYTES // 3), st.sampled_from(DTYPES), st.booleans()), max_size=8))
def test_tensors_share_no_byte(wanted: list[tuple[int, torch.dtype, bool]]) -> None:
    pages, kept = HugePages(), []
    for number, (num_bytes, dtype, dropped) in enumerate(wanted):
        count = -(-num_bytes // dtype.itemsize)
        tensor = pages.empty((1, count), dtype)
        assert tensor.shape == (1, count)
        assert tensor.dtype == dtype
        assert tensor.data_ptr() % ALIGN == 0
        assert tensor.untyped_storage().nbytes() == count * dtype.itemsize
        if not dropped:
            kept.append((tensor.fill_(number + 1), number + 1))
        del tensor
    assert all(bool((tensor == value).all()) for tensor, value in kept)


@needs_huge_pages
@pytest.mark.parametrize("num_bytes", [MIN_BYTES, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1])
def test_memory_asks_for_huge_pages(num_bytes: int) -> None:
    tensor = HugePages().empty((num_bytes,), torch.uint8)
    assert "hg" in flags_at(tensor.data_ptr())
    assert tensor.data_ptr() % HUGE_BYTES == 0


@needs_huge_pages
def test_a_chunk_is_given_back_with_its_last_tensor() -> None:
    pages = HugePages()
    first, second = (pages.empty((MIN_BYTES,), torch.uint8) for _ in range(2))
    assert second.data_ptr() == first.data_ptr() + MIN_BYTES
    chunk = pages._chunk
    assert chunk is not None
    del first
    gc.collect()
    assert chunk() is not None
    second.fill_(7)
    del second
    gc.collect()
    assert chunk() is None
    assert bool((pages.empty((MIN_BYTES,), torch.uint8).fill_(3) == 3).all())


@pytest.mark.parametrize("num_bytes", [0, 1, MIN_BYTES - 1, MIN_BYTES, CHUNK_BYTES])
def test_torch_allocates_where_the_system_refuses(num_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huge_pages, "available", lambda: True)
    monkeypatch.setattr(huge_pages.mmap, "mmap", refuse)
    pages, source = HugePages(), torch.arange(num_bytes, dtype=torch.int32).to(torch.int8)
    assert torch.equal(pages.resident(source), source)
    assert pages.empty((num_bytes,), torch.int8).shape == (num_bytes,)


def refuse(*arguments: object, **options: object) -> None:
    """Refuse memory as a limit on addresses does."""
    raise OSError(12, "Cannot allocate memory")


@pytest.mark.parametrize(
    ("words", "expected"),
    [("always [madvise] never\n", True), ("[always] madvise never\n", True), ("always madvise [never]\n", False)],
)
def test_the_systems_setting_decides(words: str, expected: bool, tmp_path: Path) -> None:
    (tmp_path / "enabled").write_text(words)
    assert available(tmp_path / "enabled") == (expected and hasattr(huge_pages.mmap, "MADV_HUGEPAGE"))
    assert not available(tmp_path / "missing")


def test_nothing_is_mapped_without_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huge_pages, "available", lambda: False)
    monkeypatch.setattr(huge_pages, "map_memory", lambda num_bytes: pytest.fail("mapped"))
    tensor = torch.zeros(MIN_BYTES, dtype=torch.uint8)
    assert HugePages().resident(tensor) is tensor
    assert HugePages().empty((CHUNK_BYTES,), torch.uint8).shape == (CHUNK_BYTES,)


@needs_huge_pages
def test_what_is_read_for_a_moment_shares_no_chunk() -> None:
    pages = HugePages()
    small, large = (pages.empty((n,), torch.uint8, alone=True) for n in (CHUNK_BYTES - 1, CHUNK_BYTES))
    assert "hg" not in flags_at(small.data_ptr())
    assert "hg" in flags_at(large.data_ptr())
    assert pages._chunk is None


def test_other_tensors_stay_as_they_are() -> None:
    meta = torch.empty(MIN_BYTES, dtype=torch.uint8, device="meta")
    parameter = torch.nn.Parameter(torch.zeros(MIN_BYTES))
    small = torch.zeros(3)
    assert HUGE_PAGES.resident(meta) is meta
    assert HUGE_PAGES.resident(parameter) is parameter
    assert HUGE_PAGES.resident(small) is small
    assert HUGE_PAGES.empty((MIN_BYTES,), torch.uint8, torch.device("meta")).is_meta


@needs_huge_pages
def test_weights_and_heads_lie_in_them_and_are_copied_and_saved_alone() -> None:
    layer = PackedBitLinear.from_codes(torch.randint(-1, 2, (1027, 1024), dtype=torch.int8), torch.tensor(0.5))
    codes, _ = stored_head(torch.randn(1027, 1024), "int8")
    for tensor in (layer.w_packed.detach(), codes):
        assert "hg" in flags_at(tensor.data_ptr())
        assert torch.equal(copy.deepcopy(tensor), tensor)
        memory = io.BytesIO()
        torch.save(tensor, memory)
        assert len(memory.getvalue()) < tensor.nbytes + 2**14
    fresh = copy.deepcopy(layer)
    x = torch.randn(3, 1024)
    assert torch.equal(fresh(x), layer(x))
