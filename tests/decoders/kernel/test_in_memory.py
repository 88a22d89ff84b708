"""A kernel that is known from nothing but the memory."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nestscope.decoders.errors import NestscopeError, UnreadableMemoryError
from nestscope.decoders.kernel.banner import find_banners
from nestscope.decoders.kernel.byteorder import ByteOrder
from nestscope.decoders.kernel.kernel import KernelError, open_kernel
from nestscope.decoders.kernel.memory import LINEAR_START
from nestscope.decoders.kernel.symbols import UnknownSymbolError
from tests.decoders.kernel.elf_file import Sym, build_id_note, elf_file
from tests.decoders.kernel.kallsyms_bytes import kallsyms_bytes
from tests.decoders.kernel.self_told import (
    BANNER,
    BTF,
    BTF_MODULES,
    BUILD_ID,
    KALLSYMS,
    MODULE_DATA,
    MODULES,
    NOTES,
    PTE_BITS,
    RELEASE,
    TEXT,
    VM_LIST,
    load_kvm,
    self_told,
    symbols,
)
from tests.decoders.kernel.world import PGD, SIZE, World, kvm_types


class Shifted:
    """RAM that starts at a physical address above 0."""

    def __init__(self, world: World, distance: int) -> None:
        self.world = world
        self.distance = distance

    def read(self, address: int, length: int) -> bytes:
        if address < self.distance:
            raise UnreadableMemoryError(address, length, "no RAM there")
        return self.world.physical.read(address - self.distance, length)


@pytest.mark.parametrize("byteorder", ["little", "big"])
@pytest.mark.parametrize(("pte_bits", "page_shift"), [(5, 16), (9, 12)])
def test_the_memory_alone_tells_release_pages_symbols_and_types(
    byteorder: ByteOrder, pte_bits: int, page_shift: int
) -> None:
    world = self_told(byteorder, pte_bits=pte_bits)
    load_kvm(world)
    kernel = open_kernel(world.physical)
    assert (kernel.release, kernel.byteorder) == (RELEASE, byteorder)
    assert kernel.page_shift == page_shift
    assert kernel.problems == []
    assert kernel.symbol("function_7").address == LINEAR_START + 0x8070
    assert kernel.symbol("vm_list").address == VM_LIST
    assert kernel.types.offset("kvm", "arch.pgtable") == 32 + 56
    assert kernel.types.offset("kvm_extra", "x") == 8
    assert kernel.known is not None
    assert kernel.known.build_id == BUILD_ID


def test_a_module_loaded_later_brings_its_types() -> None:
    world = self_told()
    kernel = open_kernel(world.physical)
    assert not kernel.types.has("kvm_extra", "x")
    with pytest.raises(UnknownSymbolError):
        kernel.symbol("vm_list")
    load_kvm(world)
    kernel.load_module_symbols()
    assert kernel.types.has("kvm_extra", "x")
    assert kernel.symbol("vm_list").address == VM_LIST


def test_a_broken_list_of_modules_types_is_a_problem() -> None:
    world = self_told()
    load_kvm(world)
    world.put(BTF_MODULES, 0xC000_0F00_0000_0000)
    (problem,) = open_kernel(world.physical).problems
    assert problem.address == BTF_MODULES
    assert "cannot be read" in problem.message


def test_a_guests_kernel_below_the_hosts_is_not_taken() -> None:
    """Its symbols are for the addresses that it sees, not for where it lies in the host."""
    world = self_told()
    guest = LINEAR_START + 0x30_0000
    world.write(guest, b"Linux version 5.10.1-guest (a@b) #1\n\0")
    world.write(guest + 0x100, kallsyms_bytes(symbols() | {"linux_banner": BANNER + 0x800}))
    world.write(BANNER, bytes(len(TEXT)))
    with pytest.raises(KernelError, match=r"5\.10\.1-guest at 0x300000, but no symbol table"):
        open_kernel(world.physical)


def test_a_kernel_without_data_symbols_is_named_and_the_way_out_is_said() -> None:
    world = self_told("little", "linux_banner", "modules")
    with pytest.raises(KernelError, match=r"KALLSYMS_ALL.*--profile") as caught:
        open_kernel(world.physical)
    assert RELEASE in str(caught.value)
    assert BUILD_ID.hex() in str(caught.value)


def test_a_kernel_without_types_is_named_and_the_way_out_is_said() -> None:
    world = self_told("little", "__start_BTF")
    with pytest.raises(KernelError, match=r"no type information.*--profile") as caught:
        open_kernel(world.physical)
    assert BUILD_ID.hex() in str(caught.value)


def test_types_that_are_not_in_the_dump_are_an_error() -> None:
    world = self_told()
    hole = range(BTF, BTF + 0x1000)

    class Holed:
        def read(self, address: int, length: int) -> bytes:
            if address < hole.stop and hole.start < address + length:
                raise UnreadableMemoryError(address, length, "left out of the dump")
            return world.physical.read(address, length)

    with pytest.raises(KernelError, match="its BTF cannot be read"):
        open_kernel(Holed())


def test_memory_without_a_kernel() -> None:
    with pytest.raises(KernelError, match=r"no Linux kernel.*--vmlinux"):
        open_kernel(World().physical)


@given(st.integers(0, SIZE - 1), st.binary(min_size=1, max_size=64))
@settings(max_examples=15, deadline=None)
def test_damaged_memory_gives_a_kernel_or_one_clear_error(at: int, noise: bytes) -> None:
    world = self_told()
    load_kvm(world)
    start = BTF + at % 4096 if at % 2 else KALLSYMS + at % 20_000
    world.write(LINEAR_START + min(start, SIZE - 64), noise)
    try:
        kernel = open_kernel(world.physical)
        kernel.types.has("kvm", "arch.pgtable")
    except NestscopeError as error:
        assert "\n" not in str(error)


@given(st.binary(max_size=2000), st.integers(0, 1 << 20))
@settings(max_examples=15, deadline=None)
def test_garbage_is_no_kernel(noise: bytes, at: int) -> None:
    world = World()
    world.write(LINEAR_START + at, TEXT + noise + TEXT)
    with pytest.raises(KernelError, match="--vmlinux"):
        open_kernel(world.physical)


def test_banners_across_the_pieces_of_the_scan_and_behind_holes() -> None:
    for at in (4 << 20, (4 << 20) - 5, (4 << 20) - 30, (4 << 20) + (64 << 10) - 40):
        data = bytearray(5 << 20)
        data[at : at + len(TEXT)] = TEXT

        class Memory:
            def read(self, address: int, length: int) -> bytes:
                inside = address + length <= len(data)  # noqa: B023
                if not inside or address < 1 << 20:
                    raise UnreadableMemoryError(address, length, "a hole")
                return bytes(data[address : address + length])  # noqa: B023

        assert [banner.address for banner in find_banners(Memory())] == [at]


def _vmlinux(folder: Path, byteorder: str = "<") -> Path:
    sections = [
        (".rodata", BANNER, TEXT),
        (".notes", NOTES, build_id_note(BUILD_ID, byteorder)),
        (".BTF", 0, kvm_types(byteorder, queued_lock=True)),
    ]
    names = [
        Sym("linux_banner", BANNER, len(TEXT)),
        Sym("swapper_pg_dir", LINEAR_START + PGD, 65536),
        Sym("__pte_index_size", PTE_BITS),
        Sym("modules", MODULES, 16),
    ]
    path = folder / "vmlinux"
    path.write_bytes(elf_file(sections, names, order=byteorder))
    return path


def test_a_relocated_kernel_is_found_with_its_vmlinux(tmp_path: Path) -> None:
    """A crash kernel runs where memory was reserved; all its addresses are further up."""
    distance = 0x40_0000
    world = self_told()
    world.list(MODULES, [])
    world.put(MODULES, MODULES + distance, MODULES + distance)
    kernel = open_kernel(Shifted(world, distance), _vmlinux(tmp_path))
    assert kernel.symbol("modules").address == MODULES + distance
    assert kernel.memory.pgd == PGD + distance
    assert (kernel.page_shift, kernel.problems) == (16, [])


def test_a_banner_in_a_file_does_not_make_a_relocated_kernel(tmp_path: Path) -> None:
    world = World()
    world.write(LINEAR_START + 0x10_0000, TEXT)
    with pytest.raises(KernelError, match="does not run"):
        open_kernel(world.physical, _vmlinux(tmp_path))


def test_a_data_symbol_that_the_kernel_does_not_keep_is_placed_by_its_section(
    tmp_path: Path,
) -> None:
    world = self_told()
    load_kvm(world, with_data_symbols=False)
    modules = tmp_path / "modules"
    modules.mkdir()
    data = elf_file(
        [(".text", 0, bytes(64)), (".data", 0, bytes(64))], [Sym("vm_list", 0x30, 16, shndx=2)]
    )
    (modules / "kvm.ko").write_bytes(data)
    kernel = open_kernel(world.physical, _vmlinux(tmp_path), modules)
    assert kernel.symbol("vm_list").address == MODULE_DATA + 0x30
    assert kernel.symbol("kvm_init").address == VM_LIST + 0x1000
