"""Kernel addresses: the linear map, and everything else through init_mm.pgd."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestscope.decoders.errors import UnreadableMemoryError
from nestscope.decoders.kernel.memory import LINEAR_START
from tests.decoders.kernel.world import PGD, World

VMALLOC = 0xC008_0000_0000_0000


def test_the_linear_map_is_physical_memory() -> None:
    world = World()
    world.physical.data[0x1234:0x1238] = b"abcd"
    assert world.memory.read(LINEAR_START + 0x1234, 4) == b"abcd"
    assert world.memory.translate(LINEAR_START + 0x1234) == 0x1234


@pytest.mark.parametrize(("last_bits", "page"), [(9, 0x1000), (5, 0x10000)])
def test_vmalloc_pages_lie_anywhere(last_bits: int, page: int) -> None:
    world = World()
    world.map_kernel(VMALLOC, 0x20_0000, last_bits)
    world.map_kernel(VMALLOC + page, 0x10_0000, last_bits)
    world.physical.data[0x20_0000 + page - 2 : 0x20_0000 + page] = b"ab"
    world.physical.data[0x10_0000 : 0x10_0000 + 2] = b"cd"
    assert world.memory.read(VMALLOC + page - 2, 4) == b"abcd"
    assert world.memory.translate(VMALLOC + page + 5) == 0x10_0005


def test_a_huge_vmalloc_page() -> None:
    world = World()
    world.map_kernel(VMALLOC + 0x1F_F000, 0x10_0000)
    # The PMD entry that leads to the PTE table becomes a 2 MiB leaf.
    pgd_entry = PGD + 8 * (1 << 12)
    pud = int.from_bytes(world.physical.read(pgd_entry, 8), "big") & 0x0FFF_FFFF_FFFF_FF00
    pmd = int.from_bytes(world.physical.read(pud, 8), "big") & 0x0FFF_FFFF_FFFF_FF00
    world.put_big(LINEAR_START | pmd, 0xC000_0000_0020_0186)
    assert world.memory.translate(VMALLOC + 0x1F_F123) == 0x3F_F123


def test_translations_are_kept_until_forgotten() -> None:
    world = World()
    world.map_kernel(VMALLOC, 0x10_0000)
    assert world.memory.translate(VMALLOC) == 0x10_0000
    world.map_kernel(VMALLOC, 0x20_0000)
    assert world.memory.translate(VMALLOC) == 0x10_0000
    world.memory.forget()
    assert world.memory.translate(VMALLOC) == 0x20_0000


def test_what_is_not_mapped_is_named_by_its_virtual_address() -> None:
    world = World()
    world.map_kernel(VMALLOC, 0x10_0000)
    with pytest.raises(UnreadableMemoryError, match="0xc008000000001000") as caught:
        world.memory.read(VMALLOC + 0xFF8, 16)
    assert caught.value.address == VMALLOC + 0xFF8
    with pytest.raises(UnreadableMemoryError, match="not an address of the kernel"):
        world.memory.read(0x1000, 8)
    with pytest.raises(UnreadableMemoryError, match="0xc0000000ffff0000"):
        world.memory.read(0xC000_0000_FFFF_0000, 8)


def test_a_table_outside_of_memory_is_named() -> None:
    world = World()
    world.put_big(LINEAR_START | PGD + 8 * (1 << 12), 0x8000_0F00_0000_0009)
    with pytest.raises(UnreadableMemoryError, match="page table at 0xf0000000000"):
        world.memory.read(VMALLOC, 8)


def test_a_table_that_leads_to_itself_ends() -> None:
    world = World()
    world.put_big(LINEAR_START | PGD + 8 * (1 << 12), 0x8000_0000_0001_0009)
    for address in (VMALLOC, VMALLOC + 0x8000_0000):
        with pytest.raises(UnreadableMemoryError):
            world.memory.read(address, 8)


@pytest.mark.parametrize("byteorder", ["little", "big"])
def test_numbers_are_in_the_kernels_byte_order(byteorder: str) -> None:
    world = World("little" if byteorder == "little" else "big")
    address = LINEAR_START + 0x8000
    world.write(address, bytes([1, 2, 3, 4, 5, 6, 7, 8]))
    little = byteorder == "little"
    assert world.memory.u32(address) == (0x04030201 if little else 0x01020304)
    assert world.memory.u64(address) == (0x0807060504030201 if little else 0x0102030405060708)


def test_a_string_ends_at_nul_limit_or_unmapped_page() -> None:
    world = World()
    world.map_kernel(VMALLOC, 0x10_0000)
    world.physical.data[0x10_0FFA:0x10_1000] = b"end\0xy"
    assert world.memory.cstring(VMALLOC + 0xFFA) == b"end"
    with pytest.raises(UnreadableMemoryError):
        world.memory.cstring(VMALLOC + 0xFFE)
    assert world.memory.cstring(VMALLOC + 0xFFE, limit=2) == b"xy"


@pytest.fixture(scope="module")
def mapped() -> World:
    world = World()
    for page in range(8):
        world.map_kernel(VMALLOC + 0x1000 * page, 0x10_0000 + 0x1000 * (page ^ 5))
    world.physical.data[0x10_0000:0x10_8000] = bytes(n * 7 % 251 for n in range(0x8000))
    return world


@given(
    st.lists(
        st.integers(VMALLOC - 16, VMALLOC + 0x8000)
        | st.integers(LINEAR_START, LINEAR_START + 0x400_0010),
        max_size=12,
    ),
    st.integers(1, 5000),
)
def test_many_reads_say_the_same_as_one(mapped: World, addresses: list[int], length: int) -> None:
    rows, good = mapped.memory.read_many(np.array(addresses, np.uint64), length)
    for address, row, readable in zip(addresses, rows, good, strict=True):
        try:
            expected = mapped.memory.read(address, length)
        except UnreadableMemoryError:
            assert not readable
            assert not row.any()
        else:
            assert readable
            assert row.tobytes() == expected
