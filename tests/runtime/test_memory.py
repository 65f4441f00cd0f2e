"""Free memory: how much there is, and what cannot fit."""

import pytest

from guidestar.core.errors import UserError
from guidestar.runtime import memory


@pytest.mark.parametrize(
    ("text", "free"),
    [
        ("MemTotal: 9 kB\nMemAvailable:   2000 kB\n", 2_048_000),
        ("MemTotal: 9 kB\n", None),
        ("MemAvailable: lots\n", None),
        ("MemAvailable:\n", None),
        (None, None),
    ],
)
def test_what_the_system_does_not_say_is_not_known(tmp_path, monkeypatch, text, free):
    path = tmp_path / "meminfo"
    if text is not None:
        path.write_text(text)
    monkeypatch.setattr(memory, "MEMINFO", path)
    assert memory.free_memory() == free
    memory.require_memory(free or 10**15, "3 images", "take 2")
    if free is not None:
        with pytest.raises(UserError, match=r"3 images take about .* 0.00205 GB are free: take 2"):
            memory.require_memory(free + 1, "3 images", "take 2")


def test_memory_is_returned_without_a_word():
    assert memory.return_memory() is None
