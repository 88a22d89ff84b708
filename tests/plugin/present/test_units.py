"""Numbers for people."""

import pytest

from nestscope.plugin.present.units import count, size


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0"), (999, "999"), (1000, "1 000"), (16777216, "16 777 216")]
)
def test_counts_are_grouped(number: int, text: str) -> None:
    assert count(number) == text


@pytest.mark.parametrize(
    ("length", "text"),
    [(0, "0 B"), (1, "1 B"), (1536, "1 536 B"), (65536, "64 KiB"), (1 << 40, "1 TiB")],
)
def test_sizes_use_the_largest_unit_that_divides_them(length: int, text: str) -> None:
    assert size(length) == text
