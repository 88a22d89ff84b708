"""A memory that tells everything of its kernel: banner, notes, kallsyms, BTF, modules."""

from nestscope.decoders.kernel.byteorder import ByteOrder
from nestscope.decoders.kernel.memory import LINEAR_START
from tests.decoders.kernel.elf_file import Sym, build_id_note, symbol_table
from tests.decoders.kernel.kallsyms_bytes import kallsyms_bytes
from tests.decoders.kernel.world import PGD, SIZE, World, kvm_btf

RELEASE = "6.12.9-test-64k"
TEXT = b"Linux version 6.12.9-test-64k (someone@somewhere) (gcc) #1 SMP\n\0"
BUILD_ID = bytes(range(20))
BANNER = LINEAR_START + 0x2000
NOTES = LINEAR_START + 0x3000
PTE_BITS = LINEAR_START + 0x4000
MODULES = LINEAR_START + 0x4010
BTF_MODULES = LINEAR_START + 0x4020
VM_LIST = 0xC008_0000_0000_1230
MODULE_DATA = VM_LIST - 0x30
KALLSYMS = SIZE - 0x8_0000
BTF = SIZE - 0x10_0000


def symbols(*left_out: str) -> dict[str, int]:
    """The kernel's symbols, and 300 that nobody asks for."""
    size = len(kvm_btf("<", queued_lock=True).bytes())
    found = {f"function_{n}": LINEAR_START + 0x8000 + 16 * n for n in range(300)}
    found |= {
        "_text": LINEAR_START,
        "linux_banner": BANNER,
        "swapper_pg_dir": LINEAR_START + PGD,
        "__pte_index_size": PTE_BITS,
        "modules": MODULES,
        "btf_modules": BTF_MODULES,
        "__start_BTF": LINEAR_START + BTF,
        "__stop_BTF": LINEAR_START + BTF + size,
    }
    return {name: address for name, address in found.items() if name not in left_out}


def self_told(byteorder: ByteOrder = "little", *left_out: str, pte_bits: int = 5) -> World:
    """Return the memory of a kernel without modules; its kallsyms lack `left_out`."""
    world = World(byteorder)
    world.write(BANNER, TEXT)
    world.write(NOTES, build_id_note(BUILD_ID, world.order))
    world.put(PTE_BITS, pte_bits)
    world.list(MODULES, [])
    world.list(BTF_MODULES, [])
    world.write(LINEAR_START + KALLSYMS, kallsyms_bytes(symbols(*left_out), world.order))
    world.write(LINEAR_START + BTF, kvm_btf(world.order, queued_lock=True).bytes())
    return world


def load_kvm(world: World, *, with_data_symbols: bool = True, types: bool = True) -> None:
    """Load module kvm. Its split BTF has struct kvm_extra, its section .data `vm_list`."""
    names = [Sym("vm_list", VM_LIST)] if with_data_symbols else [Sym("kvm_init", VM_LIST + 0x1000)]
    symtab, strtab = symbol_table(names, world.order)
    members = {
        "core_kallsyms.symtab": _place(world, symtab),
        "core_kallsyms.num_symtab": 2,
        "core_kallsyms.strtab": _place(world, strtab),
        "sect_attrs": _sections(world, {".text": VM_LIST + 0x1000, ".data": MODULE_DATA}),
    }
    module = world.make("module", members)
    world.write(world.at("module", module, "name"), b"kvm\0")
    world.list(MODULES, [world.at("module", module, "list")])
    if types:
        split = kvm_btf(world.order, queued_lock=True).split()
        split.struct("kvm_extra", 24, ("x", 1, 64))
        data = split.bytes()
        btf = world.make("btf", {"data": _place(world, data), "data_size": len(data)})
        row = world.make("btf_module", {"module": module, "btf": btf})
        world.list(BTF_MODULES, [world.at("btf_module", row, "list")])


def _place(world: World, data: bytes) -> int:
    address = world.allocate(len(data))
    world.write(address, data)
    return address


def _sections(world: World, sections: dict[str, int]) -> int:
    size = world.types.struct("module_sect_attr").size
    table = world.allocate(16 + size * len(sections))
    world.set("module_sect_attrs", table, "nsections", len(sections))
    for number, (name, address) in enumerate(sections.items()):
        row = table + 16 + size * number
        text = _place(world, name.encode() + b"\0")
        world.set("module_sect_attr", row, "battr.attr.name", text)
        world.set("module_sect_attr", row, "address", address)
    return table
