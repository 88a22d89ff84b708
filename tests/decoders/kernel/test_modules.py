"""Modules and their symbols, from the kernel's own list in memory."""

import pytest

from nestscope.decoders.kernel.modules import MAX_SYMBOLS, ModuleError, ModuleReader
from tests.decoders.kernel.elf_file import FUNC, Sym, symbol_table
from tests.decoders.kernel.world import World


def _load(world: World, name: str, symbols: list[Sym], base: int) -> int:
    """Lay out a loaded module; return the address of its `struct module`."""
    symtab, strtab = symbol_table(symbols, world.order)
    table, strings = world.allocate(len(symtab)), world.allocate(len(strtab))
    world.write(table, symtab)
    world.write(strings, strtab)
    module = world.make(
        "module",
        {
            "mem[0].base": base,
            "core_kallsyms.symtab": table,
            "core_kallsyms.num_symtab": len(symtab) // 24,
            "core_kallsyms.strtab": strings,
        },
    )
    world.write(world.at("module", module, "name"), name.encode() + b"\0")
    return module


def _world(byteorder: str = "little") -> tuple[World, int, int, int]:
    world = World("little" if byteorder == "little" else "big")
    head = world.allocate(16)
    kvm = _load(world, "kvm", [Sym("vm_list", 0xC008_0000_0001_0000, 16)], 0xC008_0000_0000_0000)
    function = Sym("insert", 0xC008_0000_0002_0000, 284, FUNC, other=3 << 5)
    hv = _load(world, "kvm_hv", [function, Sym("last", 0xC008_0000_0003_0000)], 0xC00800000002_0000)
    world.list(head, [world.at("module", module, "list") for module in (hv, kvm)])
    return world, head, kvm, hv


@pytest.mark.parametrize("byteorder", ["little", "big"])
def test_modules_have_names_bases_and_symbols_at_load_addresses(byteorder: str) -> None:
    world, head, kvm, _ = _world(byteorder)
    reader = ModuleReader(world.types, head, world.memory)
    modules, problems = reader.read()
    assert not problems
    assert list(modules) == ["kvm_hv", "kvm"]
    assert modules["kvm"].address == kvm
    assert modules["kvm"].base == 0xC008_0000_0000_0000
    symbols = reader.symbols(modules["kvm_hv"])
    assert symbols["insert"].address == 0xC008_0000_0002_0000
    assert symbols["insert"].local_entry == 0xC008_0000_0002_0008
    assert symbols["last"].address == 0xC008_0000_0003_0000
    assert reader.symbols(modules["kvm"])["vm_list"].size == 16


def test_a_broken_list_keeps_the_good_modules_and_says_where_it_breaks() -> None:
    world, head, _, hv = _world()
    link = world.at("module", hv, "list")
    world.put(link, 0xC000_0F00_0000_0000)
    modules, problems = ModuleReader(world.types, head, world.memory).read()
    assert "0xc0000f0000000010" in problems[0].message  # where its name would be
    assert list(modules) == ["kvm_hv"]
    world.put(link, link)
    modules, problems = ModuleReader(world.types, head, world.memory).read()
    assert list(modules) == ["kvm_hv"]
    assert "cycle" in problems[0].message


def test_a_wild_symbol_count_or_name_is_refused() -> None:
    world, head, kvm, _ = _world()
    reader = ModuleReader(world.types, head, world.memory)
    module = reader.read()[0]["kvm"]
    world.set("module", kvm, "core_kallsyms.num_symtab", MAX_SYMBOLS + 1)
    with pytest.raises(ModuleError, match="claims"):
        reader.symbols(module)
    world.set("module", kvm, "core_kallsyms.num_symtab", 2)
    symtab = world.memory.u64(world.at("module", kvm, "core_kallsyms.symtab"))
    world.write(symtab + 24, b"\xff" * 4)
    with pytest.raises(ModuleError, match="its name"):
        reader.symbols(module)
