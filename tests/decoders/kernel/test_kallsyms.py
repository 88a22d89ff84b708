"""The kernel's symbol table in memory: found by its inner agreement alone."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nestscope.decoders.kernel.byteorder import ByteOrder
from nestscope.decoders.kernel.kallsyms import find_kallsyms
from tests.decoders.kernel.kallsyms_bytes import kallsyms_bytes

BASE = 0xC000_0000_0000_0000
FORMS = ["after", "before", "places", "words", "whole"]
ORDERS: list[tuple[str, ByteOrder]] = [("<", "little"), (">", "big")]


def symbols(count: int = 600) -> dict[str, int]:
    """Names with and without the pairs that are compressed, one of them long."""
    found = {f"sym_{n}__init_kallsyms_er": BASE + 0x40 * n for n in range(count - 1)}
    return found | {"z" * 300: BASE + 0x40 * count}


def addresses(data: bytes, at: int, byteorder: ByteOrder) -> dict[str, int] | None:
    found = find_kallsyms(data, at, byteorder)
    return None if found is None else {name: symbol.address for name, symbol in found.items()}


@pytest.mark.parametrize(("order", "byteorder"), ORDERS)
@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_found_among_other_data(form: str, order: str, byteorder: ByteOrder) -> None:
    noise = random.Random(1).randbytes(4096)
    table = kallsyms_bytes(symbols(), order, form=form, address=BASE + 0x1000 + 4096)
    data = noise + table + noise
    assert addresses(data, BASE + 0x1000, byteorder) == symbols()
    other: ByteOrder = "big" if byteorder == "little" else "little"
    assert addresses(data, BASE + 0x1000, other) is None


@pytest.mark.parametrize("shift", [0, 4, 8, 12])
@pytest.mark.parametrize("count", [599, 600, 601])
def test_a_table_of_words_may_start_at_any_word(shift: int, count: int) -> None:
    """What follows the names stands at each of the two places modulo 8."""
    wanted = symbols(count)
    table = kallsyms_bytes(wanted, form="words", address=BASE + 0x1000 + shift)
    assert addresses(bytes(shift) + table, BASE + 0x1000, "little") == wanted


def test_of_two_symbols_of_one_name_the_global_one_is_taken() -> None:
    # Same names twice; the second table's are local ("t").
    local = {"sym_3__init_kallsyms_er": BASE + 8, "sym_4__init_kallsyms_er": BASE + 0x8000}
    found = find_kallsyms(kallsyms_bytes(symbols(), local=local), BASE, "little")
    assert found is not None
    for number in (3, 4):
        symbol = found[f"sym_{number}__init_kallsyms_er"]
        assert symbol.address == symbol.local_entry == BASE + 0x40 * number


def test_a_second_table_is_found_behind_a_damaged_one() -> None:
    good = kallsyms_bytes(symbols())
    damaged = bytearray(good)
    damaged[700:710] = bytes(10)  # inside the names
    assert addresses(bytes(damaged) + good, BASE, "little") == symbols()


@given(st.integers(0, 12_000), st.integers(0, 255))
@settings(max_examples=60, deadline=None)
def test_a_changed_byte_changes_no_address_of_another_symbol(at: int, value: int) -> None:
    """One byte spoils the table, or one name, or (in the offsets) one or all addresses."""
    data = bytearray(kallsyms_bytes(symbols()))
    data[at % len(data)] = value
    found = find_kallsyms(bytes(data), BASE, "little")
    if found is not None:
        assert len(found) >= 0.9 * len(symbols())


@given(st.binary(max_size=3000))
@settings(max_examples=60, deadline=None)
def test_garbage_is_no_table(data: bytes) -> None:
    digits = b"\0" + b"".join(b"%d\0" % digit for digit in range(10))
    assert find_kallsyms(data + digits + data, BASE, "little") is None


def test_a_table_that_is_cut_short_is_no_table() -> None:
    data = kallsyms_bytes(symbols())
    for size in range(0, len(data), 211):
        assert find_kallsyms(data[:size], BASE, "little") is None


def test_many_candidates_cost_little() -> None:
    """Words that could be the number of symbols, each in front of plausible names."""
    names = kallsyms_bytes(symbols())[8:2000]
    repeated = (b"\x58\x02\0\0\0\0\0\0" + names[: len(names) & ~7]) * 300
    data = repeated + kallsyms_bytes(symbols())
    assert addresses(data, BASE, "little") in (None, symbols())
