"""Large reads, which threads share: the same bytes, and the same words where the file ends before."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bitnet_jit.system import stable_file
from bitnet_jit.system.stable_file import StableFile


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(size=st.integers(0, 99), start=st.integers(0, 20), part=st.integers(1, 40), cores=st.integers(1, 9))
def test_parts_hold_the_same_bytes(tmp_path, size, start, part, cores):
    content = bytes(range(200))
    (tmp_path / "file").write_bytes(content)
    with pytest.MonkeyPatch.context() as patch, StableFile(tmp_path / "file") as file:
        patch.setattr(stable_file, "PART_BYTES", part)
        patch.setattr(stable_file, "READ_LIMIT", 7)
        patch.setattr(stable_file, "available_cores", lambda: cores)
        assert file.read(start, size) == content[start : start + size]


def test_the_first_part_that_is_missing_is_told(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(bytes(70))
    monkeypatch.setattr(stable_file, "PART_BYTES", 20)
    monkeypatch.setattr(stable_file, "available_cores", lambda: 4)
    with StableFile(tmp_path / "file") as file, pytest.raises(ValueError, match="end at byte 70, before byte 100$"):
        file.read(10, 90)
