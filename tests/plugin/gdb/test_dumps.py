"""GDB on a dump: the worker reads the file itself. Hosts that the lab cannot be are made here."""

import json
import lzma
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nestscope.decoders.state import Leaves, Source, State
from nestscope.decoders.words.pte import PTE_RPN
from nestscope.plugin.dumps.capture import capture, write_capture
from nestscope.plugin.gdb.terminal import GdbTerminal
from nestscope.plugin.samples import sample_path
from nestscope.plugin.target import open_target
from nestscope.sim.image.build import build_image
from nestscope.sim.image.profiles import profile_types
from tests.plugin.dumps.worlds import state as small_state
from tests.schemas import hold, validator

from .conftest import World


@pytest.fixture(scope="module")
def gdb() -> Iterator[GdbTerminal]:
    with GdbTerminal() as terminal:
        yield terminal


def written(path: Path, state: State) -> Path:
    """Write a host in this state as a dump that describes its own kernel."""
    image = build_image(state, profile_types("6.12-like"), seed=1)
    kernel = image.kernel
    source = Source("model", "image")
    made = capture(image.memory, kernel, source, ())
    write_capture(made, image.memory, kernel, path)
    return path


def run_json(gdb: GdbTerminal, command: str) -> Any:
    text = gdb.run(f"{command} --json")
    document = json.loads(next(line for line in text.splitlines() if line.startswith("{")))
    hold(document)
    return document


def test_a_hash_page_table_guest(gdb: GdbTerminal, tmp_path: Path) -> None:
    (vm,) = small_state().vms
    slots = tuple(replace(slot, rmap=type(slot.rmap)()) for slot in vm.memslots)
    hpt = replace(vm, radix=False, host_leaves=Leaves(), nested=(), memslots=slots)
    path = written(tmp_path / "hpt.elf", replace(small_state(), vms=(hpt,)))
    gdb.run(f"core-file {path}")
    (told,) = run_json(gdb, "nested vms")["vms"]
    assert (told["radix"], told["nested"]) == (False, [])
    assert "HPT" in gdb.run("nested vms")
    assert len(run_json(gdb, "nested slots")["memslots"]) == 1
    for command in ("chain 0", "guests", "walk 0", "chain --gpa 0"):
        shown = gdb.run(f"nested {command}").strip()
        assert "uses a hash page table (HPT)" in shown
        assert len(shown.splitlines()) == 1
    assert "no VM of this host maps" in gdb.run("nested hostpage 0x1000")


def test_kvm_is_not_loaded(gdb: GdbTerminal, tmp_path: Path) -> None:
    path = written(tmp_path / "bare.elf", small_state())
    data = path.read_bytes()
    known = re.search(rb'"module_symbols": \{(.*?\})\}', data)
    assert known is not None
    path.write_bytes(data.replace(known[1], b" " * len(known[1])))
    gdb.run(f"core-file {path}")
    for command in ("vms", "slots", "chain 0", "stats", "check", "hostpage 0"):
        shown = gdb.run(f"nested {command}").strip()
        assert shown.endswith(
            "nested: the kvm modules are not loaded in this kernel, so there is no VM: "
            "load kvm_hv and start one"
        )
        assert len(shown.splitlines()) == 1


def test_several_vms_need_a_choice(gdb: GdbTerminal, tmp_path: Path) -> None:
    (vm,) = small_state().vms
    two = replace(small_state(), vms=(vm, replace(vm, lpid=5, nested=())))
    gdb.run(f"core-file {written(tmp_path / 'two.elf', two)}")
    assert "there are 2 VMs: choose one with --vm" in gdb.run("nested chain 9")
    told = run_json(gdb, "nested vms")["vms"]
    assert [vm["lpid"] for vm in told] == [1, 5]
    first = run_json(gdb, "nested chain 9 --vm 0")
    by_address = run_json(gdb, f"nested chain 9 --vm {told[0]['kvm']}")
    assert first == by_address
    assert [entry["n_gpa"] for entry in first["entries"]] == ["0x2000", "0x5000", "0x0"]
    assert gdb.run("output $_nested_chain_length(9, 1)") == "3"


@pytest.mark.parametrize("name", ["6.1-64k", "6.12-4k", "6.12-64k"])
def test_the_samples_say_the_same_as_the_command_line(
    gdb: GdbTerminal, tmp_path: Path, name: str
) -> None:
    path = tmp_path / f"{name}.elf"
    path.write_bytes(lzma.decompress(sample_path(f"sample:{name}").read_bytes()))
    with open_target(str(path)) as target:
        state = target.state()
    gdb.run(f"core-file {path}")
    (vm,) = state.vms
    (told,) = run_json(gdb, "nested vms")["vms"]
    assert told["nested"] == [guest.l1_lpid for guest in vm.nested]
    for slot in vm.memslots:
        for chain in slot.rmap:
            shown = run_json(gdb, f"nested chain {chain.gfn}")
            assert [(e["l1_lpid"], int(e["n_gpa"], 16)) for e in shown["entries"]] == [
                (entry.l1_lpid, entry.n_gpa) for entry in chain.entries
            ]


def test_each_command_prints_the_document_of_its_schema(gdb: GdbTerminal, tmp_path: Path) -> None:
    gdb.run(f"core-file {written(tmp_path / 'all.elf', small_state())}")
    (leaf, *_) = small_state().vms[0].host_leaves
    commands = ("vms", "slots", "guests", "chain 9", f"hostpage {leaf.pte & PTE_RPN:#x}")
    for command in (*commands, "stats", "target"):
        document = run_json(gdb, f"nested {command}")
        assert document["schema"] == "nestscope.gdb/1"
        for member in document:
            spoilt = {name: value for name, value in document.items() if name != member}
            assert not validator("gdb").is_valid(spoilt), f"{command} without {member}"
    assert run_json(gdb, "nested check")["schema"] == "nestscope.check/1"
    assert run_json(gdb, "nested decode pte 7")["schema"] == "nestscope.decode/1"


def test_a_walk_to_a_page_without_entries_has_no_chain(gdb: GdbTerminal, tmp_path: Path) -> None:
    gdb.run(f"core-file {written(tmp_path / 'walk.elf', small_state())}")
    shift = small_state().kernel.page_shift
    assert shift is not None
    (vm,) = small_state().vms
    used = {chain.gfn for slot in vm.memslots for chain in slot.rmap}
    chains = {
        leaf.address >> shift: run_json(gdb, f"nested walk {leaf.address:#x}")["rmap"]
        for leaf in vm.host_leaves
    }
    assert {gfn for gfn, chain in chains.items() if chain is not None} == used & set(chains)
    assert None in chains.values()


def test_a_dump_that_is_no_kernel(gdb: GdbTerminal, tmp_path: Path) -> None:
    path = written(tmp_path / "x.elf", small_state())
    data = path.read_bytes()
    path.write_bytes(data.replace(b"NESTSCOPE\0", b"NESTSCOPF\0"))
    gdb.run(f"core-file {path}")
    shown = gdb.run("nested vms").strip()
    assert "no Linux kernel that can be recognised" in shown
    assert len(shown.splitlines()) == 1


def test_a_dump_that_was_written_again_is_read_again(gdb: GdbTerminal, tmp_path: Path) -> None:
    path = written(tmp_path / "again.elf", small_state())
    gdb.run(f"core-file {path}")
    assert len(run_json(gdb, "nested vms")["vms"]) == 1
    written(path, replace(small_state(), vms=()))
    assert run_json(gdb, "nested vms")["vms"] == []


@pytest.mark.kernel
@pytest.mark.nightly
def test_qemus_own_dump(world: World, tmp_path: Path) -> None:
    """Its header is big-endian; GDB opens it all the same, and the worker reads the file."""
    path = tmp_path / "qemu.elf"
    world.lab.qmp.dump_guest_memory(path, "elf")
    path.chmod(0o600)
    with GdbTerminal([world.lab.kernel.vmlinux]) as gdb:
        gdb.run(f"core-file {path}")
        told = run_json(gdb, "nested chain --gpa 0x900000")
    path.unlink()
    slot = world.vm.memslots[0]
    chain = slot.rmap.of(told["gfn"])
    assert chain is not None
    assert [(e["l1_lpid"], int(e["n_gpa"], 16)) for e in told["entries"]] == list(chain.entries)
