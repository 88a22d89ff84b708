"""Opening a kernel: it must be the one that the memory runs."""

from pathlib import Path

import pytest

from nestscope.decoders.errors import UnreadableMemoryError
from nestscope.decoders.kernel.elf_image import KernelFileError
from nestscope.decoders.kernel.kernel import Kernel, KernelError, open_kernel
from nestscope.decoders.kernel.memory import LINEAR_START
from nestscope.decoders.kernel.symbols import UnknownSymbolError
from tests.decoders.kernel.btf_bytes import BtfBytes
from tests.decoders.kernel.elf_file import Sym, build_id_note, elf_file, symbol_table
from tests.decoders.kernel.world import PGD, World, kvm_types

BANNER = LINEAR_START + 0x1000
NOTES = LINEAR_START + 0x2000
PTE_BITS = LINEAR_START + 0x3000
MODULES = LINEAR_START + 0x3010
TEXT = b"Linux version 6.12.9-test-64k (someone@somewhere) #1 SMP\n\0"


def _vmlinux(
    folder: Path,
    *,
    order: str = "<",
    banner: bytes = TEXT,
    build_id: bytes = bytes(20),
    btf: bytes | None = None,
) -> Path:
    sections = [
        (".rodata", BANNER, banner),
        (".notes", NOTES, build_id_note(build_id, order)),
    ]
    if btf is None:
        btf = kvm_types(order, queued_lock=True)
    if btf:
        sections.append((".BTF", 0, btf))
    symbols = [
        Sym("linux_banner", BANNER, len(banner)),
        Sym("swapper_pg_dir", LINEAR_START + PGD, 65536),
        Sym("__pte_index_size", PTE_BITS),
        Sym("modules", MODULES, 16),
    ]
    path = folder / "vmlinux"
    path.write_bytes(elf_file(sections, symbols, order=order))
    return path


def _boot(byteorder: str = "little", pte_bits: int = 5) -> World:
    """Put into memory what that kernel has there."""
    world = World("little" if byteorder == "little" else "big")
    world.write(BANNER, TEXT)
    world.write(NOTES, build_id_note(bytes(20), world.order))
    world.put(PTE_BITS, pte_bits)
    world.list(MODULES, [])
    return world


def _load_kvm(world: World) -> None:
    """Load a module kvm with the symbol `vm_list`."""
    symtab, strtab = symbol_table([Sym("vm_list", 0xC008_0000_0000_1230)], world.order)
    table, strings = world.allocate(len(symtab)), world.allocate(len(strtab))
    world.write(table, symtab)
    world.write(strings, strtab)
    members = {
        "core_kallsyms.symtab": table,
        "core_kallsyms.num_symtab": 2,
        "core_kallsyms.strtab": strings,
    }
    module = world.make("module", members)
    world.write(world.at("module", module, "name"), b"kvm\0")
    world.list(MODULES, [world.at("module", module, "list")])


@pytest.mark.parametrize(("byteorder", "order"), [("little", "<"), ("big", ">")])
@pytest.mark.parametrize(("pte_bits", "page_shift"), [(5, 16), (9, 12)])
def test_release_page_size_and_byte_order(
    tmp_path: Path, byteorder: str, order: str, pte_bits: int, page_shift: int
) -> None:
    world = _boot(byteorder, pte_bits)
    kernel = open_kernel(world.physical, _vmlinux(tmp_path, order=order))
    assert kernel.release == "6.12.9-test-64k"
    assert kernel.page_shift == page_shift
    assert kernel.byteorder == byteorder
    assert kernel.problems == []
    assert kernel.symbol("modules").address == MODULES


def test_a_module_loaded_later_is_found(tmp_path: Path) -> None:
    world = _boot()
    kernel = open_kernel(world.physical, _vmlinux(tmp_path))
    with pytest.raises(UnknownSymbolError, match="load kvm first"):
        kernel.symbol("vm_list")
    _load_kvm(world)
    kernel.load_module_symbols()
    assert kernel.symbol("vm_list").address == 0xC008_0000_0000_1230


def test_a_module_with_damaged_symbols_is_a_problem(tmp_path: Path) -> None:
    world = _boot()
    _load_kvm(world)
    kernel = open_kernel(world.physical, _vmlinux(tmp_path))
    link = world.memory.u64(MODULES)
    world.set("module", link - 16, "core_kallsyms.symtab", 0xC000_0F00_0000_0000)
    kernel.load_module_symbols()
    (problem,) = kernel.problems
    assert problem.path == "modules.kvm"
    assert problem.address == link - 16


def test_another_kernel_is_refused_and_both_are_named(tmp_path: Path) -> None:
    world = _boot()
    vmlinux = _vmlinux(tmp_path, banner=TEXT.replace(b"6.12.9", b"6.12.8"))
    with pytest.raises(KernelError, match=r"6\.12\.9.*6\.12\.8") as caught:
        open_kernel(world.physical, vmlinux)
    assert str(vmlinux) in str(caught.value)


def test_another_build_of_the_same_version_is_refused(tmp_path: Path) -> None:
    world = _boot()
    with pytest.raises(KernelError, match=f"{bytes(20).hex()}.*{(b'x' * 20).hex()}"):
        open_kernel(world.physical, _vmlinux(tmp_path, build_id=b"x" * 20))


def test_memory_without_a_kernel_is_refused(tmp_path: Path) -> None:
    vmlinux = _vmlinux(tmp_path)
    with pytest.raises(KernelError, match="no banner"):
        open_kernel(World().physical, vmlinux)


def test_memory_too_small_for_the_kernel(tmp_path: Path) -> None:
    world = _boot()
    del world.physical.data[0x1800:]
    with pytest.raises(UnreadableMemoryError, match="0x201c"):
        open_kernel(world.physical, _vmlinux(tmp_path))


def test_a_hash_host_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KernelError, match="radix"):
        open_kernel(_boot(pte_bits=8).physical, _vmlinux(tmp_path))


def test_a_kernel_without_types_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KernelError, match="CONFIG_DEBUG_INFO_BTF"):
        open_kernel(_boot().physical, _vmlinux(tmp_path, btf=b""))


def test_split_types_of_modules_are_found_below_the_folder(tmp_path: Path) -> None:
    base = BtfBytes()
    base.struct("module", 8, ("x", base.number("u64", 8), 0))
    split = base.split()
    split.struct("kvm_nested_guest", 24, ("l1_lpid", 1, 64))
    folder = tmp_path / "modules" / "kernel"
    folder.mkdir(parents=True)
    (folder / "kvm-hv.ko").write_bytes(elf_file([(".BTF", 0, split.bytes())], []))
    vmlinux = _vmlinux(tmp_path, btf=base.bytes())
    kernel: Kernel = open_kernel(_boot().physical, vmlinux, tmp_path / "modules")
    assert kernel.types.offset("kvm_nested_guest", "l1_lpid") == 8
    assert not open_kernel(_boot().physical, vmlinux).types.has("kvm_nested_guest", "l1_lpid")


def test_a_module_with_a_base_of_its_own(tmp_path: Path) -> None:
    base = BtfBytes()
    base.number("u8", 1)
    own = BtfBytes()
    own.number("u64", 8)
    split = own.split()
    split.struct("kvm_nested_guest", 24, ("l1_lpid", 1, 64))
    sections = [(".BTF", 0, split.bytes()), (".BTF.base", 0, own.bytes())]
    (tmp_path / "kvm-hv.ko").write_bytes(elf_file(sections, []))
    kernel = open_kernel(_boot().physical, _vmlinux(tmp_path, btf=base.bytes()), tmp_path)
    assert kernel.types.member("kvm_nested_guest", "l1_lpid").size == 8


def test_an_image_that_is_no_kernel(tmp_path: Path) -> None:
    path = tmp_path / "vmlinux"
    path.write_bytes(elf_file([(".text", 0, b"")], []))
    with pytest.raises(UnknownSymbolError, match="linux_banner"):
        open_kernel(_boot().physical, path)
    path.write_bytes(b"no ELF")
    with pytest.raises(KernelFileError):
        open_kernel(_boot().physical, path)
