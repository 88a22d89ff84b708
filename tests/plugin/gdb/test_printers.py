"""Pretty-printers, and layouts from GDB, with debug information that a compiler made.

Distribution kernels come without it, so the structures are compiled here, in the layout
of the running kernel, and GDB reads that kernel's memory with them.
"""

import json
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from nestscope.decoders.kernel.types import Types
from nestscope.plugin.gdb.terminal import GdbTerminal

from .conftest import World

pytestmark = pytest.mark.kernel

COMPILER = "powerpc64le-linux-gnu-gcc"
STRUCTURES = {
    "rmap_nested": {"list.next": "unsigned long", "rmap": "unsigned long"},
    "kvm_nested_guest": {
        "l1_host": "void *",
        "l1_lpid": "int",
        "shadow_lpid": "int",
        "shadow_pgtable": "void *",
        "l1_gr_to_hr": "unsigned long",
        "process_table": "unsigned long",
        "refcnt": "long",
    },
    "kvm_memory_slot": {
        "base_gfn": "unsigned long",
        "npages": "unsigned long",
        "arch.rmap": "unsigned long *",
        "userspace_addr": "unsigned long",
        "flags": "unsigned int",
        "id": "short",
    },
}


def c_source(types: Types) -> str:
    """Return C with the structures, each member where the kernel has it."""
    text = ["typedef struct { unsigned long pte; } pte_t;", "pte_t a_pte;"]
    for name, members in STRUCTURES.items():
        fields: list[str] = []
        for path, kind in members.items():
            outer, _, inner = path.partition(".")
            member = f"struct {{ {kind} {inner}; }} {outer}" if inner else f"{kind} {outer}"
            at = types.offset(name, path)
            pad = f"char pad{at}[{at}]; " if at else ""
            fields.append(f"  struct __attribute__((packed)) {{ {pad}{member}; }};")
        size = types.struct(name).size
        text.append(f"struct {name} {{ union {{\n" + "\n".join(fields))
        text.append(f"  char whole[{size}]; }}; }};\nstruct {name} *a_{name};")
    return "\n".join(text) + "\n"


@pytest.fixture(scope="module")
def gdb(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GdbTerminal]:
    if shutil.which(COMPILER) is None:
        pytest.skip(f"there is no {COMPILER}")
    folder = tmp_path_factory.mktemp("types")
    source, made = folder / "types.c", folder / "types.o"
    source.write_text(c_source(world.live.machine.kernel.types))
    subprocess.run(
        [COMPILER, "-g", "-c", "-fno-common", str(source), "-o", str(made)], check=True, timeout=60
    )
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


def test_layouts_of_gdb_equal_the_kernels_own(world: World, gdb: GdbTerminal) -> None:
    """What the worker is told of a structure: offsets, sizes, kinds."""
    types = world.live.machine.kernel.types
    gdb.run(
        "python from nestscope_in_gdb.layouts import Layouts; "
        "told = lambda n: {m['name']: (m['offset'], m['size'], m['kind'], m['signed']) "
        "for m in Layouts().find(n)['members']}"
    )
    for name, members in STRUCTURES.items():
        for path in members:
            if "." not in path:
                known = types.member(name, path)
                shown = gdb.run(f"python print(told({name!r})[{path!r}])").strip()
                expected = (known.offset, known.size, known.kind, known.signed)
                assert shown == str(expected), (name, path)
