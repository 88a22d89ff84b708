"""A small host with one guest whose own tables lie among its data, as an ELF core."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nestscope.decoders.kernel.byteorder import ByteOrder
from nestscope.decoders.kernel.kernel import Kernel
from nestscope.decoders.sources.open import open_source
from nestscope.decoders.sources.source_memory import SourceMemory
from nestscope.decoders.state import (
    FORM_LIST,
    FORM_SINGLE,
    Chains,
    KernelInfo,
    Leaves,
    Memslot,
    NestedGuest,
    Source,
    State,
    Vm,
)
from nestscope.decoders.words.pate import make_dw0
from nestscope.decoders.words.pte import PTE_EAA_READ, PTE_LEAF
from nestscope.plugin.dumps.elf_writer import write_core
from nestscope.sim.image.build import Image, build_image
from nestscope.sim.image.profiles import profile_types

LEAF = PTE_LEAF | PTE_EAA_READ
MARKER = b"secret of a guest "
GUEST_PAGE = 0x4000_0000
"""The host page (64 KiB) that the guest has at its address 0."""

PARTITION_TABLE, LOWER, ROOT = 0x1000, 0x6000, 0x20_0000
"""In the guest's memory: PATEs, a table of 512 entries, and the root of 8192 in its own page."""


def guest_page() -> bytes:
    """Return a guest page full of data, with a partition table and a tree in it."""
    page = bytearray((MARKER * 4000)[:0x10000])
    dw0 = make_dw0(ROOT, 13)
    page[PARTITION_TABLE + 7 * 16 : PARTITION_TABLE + 8 * 16] = dw0.to_bytes(8, "big") + bytes(8)
    page[LOWER : LOWER + 4096] = bytes(4096)
    return bytes(page)


ROOT_ENTRY = (1 << 63 | LOWER | 9).to_bytes(8, "big")


def state(page_shift: int = 16) -> State:
    """Return the State: chains of both forms, one nested guest."""
    slot = Memslot(
        0,
        0,
        64,
        0x7000_0000_0000,
        0,
        1,
        Chains.build(
            [(3, FORM_SINGLE, [(7, 0x1000)]), (9, FORM_LIST, [(7, 0x2000), (8, 0x5000), (7, 0)])]
        ),
    )
    nested = NestedGuest(
        7, 2, 1, make_dw0(ROOT, 13), 0, 1, Leaves.build([(0x10000, page_shift, LEAF | 0x5000_0000)])
    )
    pages = [(0, GUEST_PAGE), (0x10_0000, 0x4100_0000), (ROOT, 0x4200_0000)]
    vm = Vm(
        1,
        1,
        True,
        False,
        PARTITION_TABLE,
        (slot,),
        Leaves.build([(gpa, 16, LEAF | host) for gpa, host in pages]),
        (nested,),
    )
    return State(Source("model", "x"), KernelInfo("6.12.0-test", page_shift), (vm,))


@dataclass(frozen=True)
class World:
    """A dump, and the kernel in it."""

    memory: SourceMemory
    kernel: Kernel
    image: Image

    @property
    def source(self) -> Source:
        """What it is."""
        return Source("elf-core", "dump.elf")


def make_world(
    folder: Path,
    byteorder: ByteOrder = "little",
    *,
    page_shift: int = 16,
    damage: Mapping[int, bytes] | None = None,
) -> World:
    """Write the world to a file and open it. `damage` maps physical addresses to bytes."""
    image = build_image(state(page_shift), profile_types("6.12-like"), byteorder=byteorder, seed=1)
    plain, path = folder / "image.elf", folder / "dump.elf"
    image.memory.write_elf_core(plain, byteorder)
    memory, _ = open_source(plain)
    with memory:
        ranges = memory.ranges()
        parts = {start: bytearray(memory.read(start, end - start)) for start, end in ranges}
    parts[GUEST_PAGE] = bytearray(guest_page())
    parts[0x4100_0000] = bytearray((MARKER * 4000)[:0x10000])
    parts[0x4200_0000] = bytearray(ROOT_ENTRY + bytes(0x10000 - 8))
    for address, data in (damage or {}).items():
        for start, part in parts.items():
            if start <= address < start + len(part):
                part[address - start : address - start + len(data)] = data

    def read(address: int, length: int) -> bytes:
        for start, part in parts.items():
            if start <= address < start + len(part):
                return bytes(part[address - start : address - start + length])
        raise AssertionError(f"{address:#x}")

    with path.open("wb") as file:
        spans = sorted((start, start + len(part)) for start, part in parts.items())
        write_core(file, "<" if byteorder == "little" else ">", [], spans, read)
    opened, _ = open_source(path)
    return World(opened, image.facts.open(opened, image.types), image)
