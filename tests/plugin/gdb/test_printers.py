"""Pretty-printers, and layouts from GDB, with debug information that a compiler made.

Distribution kernels come without it, so the structures are compiled here, in the layout
of the running kernel, and GDB reads that kernel's memory with them.
"""

import json
from collections.abc import Iterator, Mapping

import pytest

from nestscope.decoders.captured import captured_profile
from nestscope.decoders.kernel.types import Struct
from nestscope.decoders.state import Source
from nestscope.plugin.dumps.capture import capture
from nestscope.plugin.gdb.terminal import GdbTerminal

from .c_types import compiled
from .conftest import World

pytestmark = pytest.mark.kernel

STRUCTURES = ("kvm", "kvm_memslots", "kvm_memory_slot", "kvm_nested_guest")


@pytest.fixture(scope="module")
def structs(world: World) -> Mapping[str, Struct]:
    """The layouts that reading the State asks for, from the kernel's BTF."""
    machine = world.live.machine
    memory = machine.kernel.memory.physical
    made = capture(memory, machine.kernel, Source("ram", "lab"), ())
    return captured_profile(made.notes).structs


@pytest.fixture(scope="module")
def gdb(
    world: World, structs: Mapping[str, Struct], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GdbTerminal]:
    made = compiled(structs, tmp_path_factory.mktemp("types"))
    with GdbTerminal([world.lab.kernel.vmlinux]) as terminal:
        terminal.run(f"add-symbol-file {made} 0x1000")
        terminal.run(f"target remote {world.lab.gdb_socket}")
        yield terminal
        terminal.run("detach")


def node_address(gdb: GdbTerminal, gfn: int) -> str:
    return gdb.run(f"nested chain {gfn}").split("rmap word ")[1].split()[0]


def test_rmap_nested(world: World, gdb: GdbTerminal) -> None:
    (slot,) = world.vm.memslots
    chain = next(chain for chain in slot.rmap if chain.form == "list")
    shown = gdb.run(f"p *(struct rmap_nested *){node_address(gdb, chain.gfn)}")
    first, second = chain.entries[:2]
    assert f"(l1_lpid {first.l1_lpid}, n_gpa {first.n_gpa:#x}); next" in shown
    if len(chain.entries) == 2:
        assert f"(l1_lpid {second.l1_lpid}, n_gpa {second.n_gpa:#x})" in shown.split("next")[1]


def test_kvm_memory_slot(world: World, gdb: GdbTerminal) -> None:
    (slot,) = world.vm.memslots
    address = gdb.run("nested slots").split()[-1]
    shown = gdb.run(f"p *(struct kvm_memory_slot *){address}")
    assert f"memslot {slot.id}: gfn 0x0 to {slot.npages - 1:#x}" in shown
    assert f"rmap = {slot.rmap_array:#x}" in shown


def test_kvm_nested_guest(world: World, gdb: GdbTerminal) -> None:
    guest = world.vm.nested[0]
    (line,) = gdb.run("nested guests --json").splitlines()
    address = int(json.loads(line)["nested"][0]["address"], 16)
    shown = gdb.run(f"p *(struct kvm_nested_guest *){address:#x}")
    assert f"l1_lpid {guest.l1_lpid}, shadow_lpid {guest.shadow_lpid}, refcnt 1" in shown
    assert f"shadow_pgtable = {guest.shadow_pgtable:#x}" in shown


def test_pte_t_is_big_endian_in_memory(world: World, gdb: GdbTerminal) -> None:
    walked = gdb.run("nested walk 0x900000 --json")
    step = json.loads(walked)["host"]["steps"][-1]
    address = int(step["entry_address"], 16) | 0xC000_0000_0000_0000
    shown = gdb.run(f"p *(pte_t *){address:#x}")
    assert f"{int(step['word'], 16):#018x} valid, leaf" in shown


def test_printers_can_be_disabled(gdb: GdbTerminal) -> None:
    assert "pte_t" in gdb.run("info pretty-printer global nestscope")
    gdb.run("disable pretty-printer global nestscope;pte_t")
    assert "valid" not in gdb.run("p *(pte_t *)&linux_banner")
    gdb.run("enable pretty-printer global nestscope;pte_t")


def test_layouts_of_gdb_equal_the_kernels_own(
    gdb: GdbTerminal, structs: Mapping[str, Struct]
) -> None:
    """What the worker is told of a structure: offsets, sizes, kinds."""
    gdb.run(
        "python from nestscope_in_gdb.layouts import Layouts; "
        "told = lambda n: {m['name']: (m['offset'], m['size'], m['kind'], m['signed'], m['dims']) "
        "for m in Layouts().find(n)['members']}"
    )
    seen = 0
    for name in STRUCTURES:
        for member in structs[name].members.values():
            shown = gdb.run(f"python print(told({name!r})[{member.name!r}])").strip()
            signed = member.signed and member.kind == "int"
            dims = list(member.dims)
            expected = (member.offset, member.size, member.kind, signed, dims)
            assert shown == str(expected), (name, member.name)
            seen += 1
    assert seen > 20


def test_the_worker_takes_types_from_gdb_where_it_has_them(world: World, gdb: GdbTerminal) -> None:
    (line,) = gdb.run("nested target --json").splitlines()
    assert json.loads(line)["types"] == "GDB's debug information"
    assert "not read" not in gdb.run("nested vms")
    (slot,) = world.vm.memslots
    for chain in slot.rmap:
        pairs = " ".join(f"({entry.l1_lpid}, {entry.n_gpa:#x})" for entry in chain.entries)
        shown = gdb.run(f"output $_nested_chain({chain.gfn:#x})")
        assert shown == f'"{chain.form} {pairs}"'
    walked = gdb.run("nested walk 0x2000000 --lpid 2")
    assert "leads where" in walked
