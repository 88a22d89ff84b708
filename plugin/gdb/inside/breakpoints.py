"""Stop where an entry (l1_lpid, n_gpa) gets into a chain, or out of one.

A function of the kernel is watched at its local entry point (calls inside a module
skip the global one: ELFv2 ABI, st_other) and at its returns. At the entry the chain is
read; at the return it is read again, and only if the entry came or went GDB stops.
Breakpoints are hardware ones: QEMU keeps them outside of memory.
"""

import json
from typing import Any, Dict, List, Optional, Tuple

import gdb

from . import spec
from .commands import Link, VerbCommand
from .target import little_endian, register

_MSR_HV = 1 << 60
_RMAP_GPA = 0x000FFFFFFFFFF000
_LPID_SHIFT = 52

INSERT = "kvmhv_insert_nest_rmap"
"""(kvm, rmapp, &n_rmap): the one place that adds to a chain."""
REMOVE = "kvmhv_remove_nest_rmap_range"
"""(kvm, memslot, gpa, hpa, nbytes): the host takes a page away."""
RELEASE = "kvmhv_release_all_nested"
"""(kvm): the VM ends, or leaves radix mode."""

Found = Dict[int, str]
"""Chains before, as texts, by the address of their rmap word."""


class Watch:
    """What is looked for, and what was seen at an entry, for each vCPU."""

    def __init__(self, link: Link, l1_lpid: int, n_gpa: int, kvm: Optional[int]) -> None:
        self.link = link
        self.l1_lpid = l1_lpid
        self.n_gpa = n_gpa & _RMAP_GPA
        self.kvm = kvm
        self.entered: Dict[Tuple[str, int], Found] = {}

    def ask(self, verb: str, **arguments: int) -> Dict[str, Any]:
        """Ask the worker about the entry; the memory has changed since the last time."""
        self.link.target.generation += 1
        arguments.update(l1_lpid=self.l1_lpid, n_gpa=self.n_gpa)
        answer: Dict[str, Any] = self.link.ask(verb, arguments, "json")["document"]
        return answer

    def enter(self, function: str) -> bool:
        """At the entry of a function: remember the chains that it may change; never stop."""
        key = (function, _thread())
        self.entered.pop(key, None)
        kvm = register("r3")
        if not in_host() or kvm is None or self.kvm not in (None, kvm):
            return False
        places = self._places(function, kvm)
        found = {place: str(self.ask("chain-at", address=place)["chain"]) for place in places}
        if found:
            self.entered[key] = found
        return False

    def leave(self, function: str, always: bool) -> bool:
        """At a return of a function: say what changed, and whether to stop."""
        key = (function, _thread())
        found = self.entered.get(key)
        if found is None or not in_host():
            return False
        changed = False
        for place, before in found.items():
            after = self.ask("chain-at", address=place)
            if after["has"] == (function == INSERT) and after["chain"] != before:
                changed = True
                self._tell(function, place, before, after)
        if always or changed:
            del self.entered[key]
        return changed

    def _places(self, function: str, kvm: int) -> List[int]:
        """Return the addresses of the rmap words that may gain or lose the entry."""
        if function == INSERT:
            rmapp, slot = register("r4"), register("r5")
            if rmapp is None or slot is None:
                return []
            entry = _word(_word(slot) + 8)
            wanted = self.l1_lpid << _LPID_SHIFT | self.n_gpa
            return [rmapp] if entry & ~0xFFF == wanted else []
        if function == REMOVE:
            memslot, gpa, nbytes = register("r4"), register("r5"), register("r7")
            if not memslot or gpa is None or nbytes is None:
                return []
            return list(
                self.ask("where", kvm=kvm, memslot=memslot, gpa=gpa, nbytes=nbytes)["words"]
            )
        return list(self.ask("where", kvm=kvm)["words"])

    def _tell(self, function: str, place: int, before: str, after: Dict[str, Any]) -> None:
        done = "inserted at" if function == INSERT else "removed from"
        gdb.write(
            "nested: (l1_lpid {}, n_gpa {:#x}) was {} gfn {:#x} by {}\n"
            "  rmap word at {:#x}\n  before: {}\n  after:  {}\n".format(
                self.l1_lpid, self.n_gpa, done, after["gfn"], function, place, before,
                after["chain"],
            )
        )  # fmt: skip


class EntryBreakpoint(gdb.Breakpoint):
    """At a function's local entry point. Never stops by itself."""

    def __init__(self, watch: Watch, function: str, address: int) -> None:
        self.watch = watch
        self.function = function
        self.returns: List["ReturnBreakpoint"] = []
        super(EntryBreakpoint, self).__init__(
            "*{:#x}".format(address), type=gdb.BP_HARDWARE_BREAKPOINT
        )

    def stop(self) -> bool:
        """Look whether this call is about the entry; go on."""
        return _guarded(lambda: self.watch.enter(self.function))


class ReturnBreakpoint(gdb.Breakpoint):
    """At a return of a function. Stops if the entry came or went."""

    def __init__(self, watch: Watch, function: str, address: int, always: bool) -> None:
        self.watch = watch
        self.function = function
        self.always = always
        super(ReturnBreakpoint, self).__init__(
            "*{:#x}".format(address), type=gdb.BP_HARDWARE_BREAKPOINT, internal=True
        )
        self.silent = True  # it has no number that a user knows; the chain is shown instead

    def stop(self) -> bool:
        """Say whether the entry came or went in this call."""
        return _guarded(lambda: self.watch.leave(self.function, self.always))


def set_breakpoints(watch: Watch, functions: List[str]) -> List[EntryBreakpoint]:
    """Watch `functions`; return the breakpoints that the user sees.

    Raises:
        gdb.GdbError: if the kernel lacks one of them.
    """
    told = [(name, watch.link.ask("function", {"name": name}, "json")) for name in functions]
    made = []
    for name, answer in told:
        document = answer["document"]
        entry = EntryBreakpoint(watch, name, document["entry"])
        entry.returns = [
            ReturnBreakpoint(watch, name, address, always)
            for address, always in document["returns"]
        ]
        made.append(entry)
    return made


class BreakCommand(VerbCommand):
    """`nested break`."""

    def run(self, arguments: Dict[str, Any], as_json: bool) -> None:
        """Set the breakpoints and say which."""
        when = arguments["when"]
        l1_lpid, n_gpa = arguments["l1_lpid"], arguments["n_gpa"]
        if l1_lpid >> 12 or n_gpa >> _LPID_SHIFT:
            raise gdb.GdbError(
                "nested break: no rmap entry can hold l1_lpid {}, n_gpa {:#x}: they have 12 and "
                "52 bits".format(l1_lpid, n_gpa)
            )
        kvm = None
        if "vm" in arguments:
            kvm = self.link.ask("vm-address", {"vm": arguments["vm"]})["value"]
        watch = Watch(self.link, l1_lpid, n_gpa, kvm)
        functions = {"insert": [INSERT], "remove": [REMOVE, RELEASE]}
        made = set_breakpoints(watch, functions.get(when, [INSERT, REMOVE, RELEASE]))
        if as_json:
            document = {
                "schema": "nestscope.gdb/1",
                "breakpoints": {each.function: each.number for each in made},
            }
            gdb.write(json.dumps(document) + "\n")
        else:
            for each in made:
                gdb.write("nested: breakpoint {} is at {}\n".format(each.number, each.function))
            numbers = " ".join(str(each.number) for each in made)
            gdb.write("nested: to stop watching: delete {}\n".format(numbers))


def register_breakpoints(link: Link) -> None:
    """Make `nested break` known to GDB."""
    BreakCommand(spec.find("break"), link)
    gdb.events.breakpoint_deleted.connect(delete_companions)
    # GDB 13 crashes at its end if a breakpoint with methods in Python is left.
    gdb.events.gdb_exiting.connect(delete_all)


def delete_companions(deleted: Any) -> None:
    """When the user deletes a breakpoint, delete its returns, too."""
    for companion in getattr(deleted, "returns", []):
        gdb.post_event(companion.delete)


def delete_all(_: Any) -> None:
    """Delete our breakpoints, the returns with them."""
    for each in gdb.breakpoints():
        if isinstance(each, EntryBreakpoint):
            for companion in each.returns:
                companion.delete()
            each.returns = []
            each.delete()


def in_host() -> bool:
    """Say whether the vCPU runs the host's kernel and not a guest's, at the same addresses.

    In a guest LPIDR names it and MSR[HV] is clear; the kernel of a pseries machine
    has LPIDR 0, that of a bare-metal one MSR[HV].
    """
    msr, lpidr = register("msr"), register("lpidr")
    return lpidr is None or lpidr == 0 or bool(msr and msr & _MSR_HV)


def _guarded(action: Any) -> bool:
    """Run a breakpoint's action; what goes wrong is told, and the target stops."""
    try:
        return bool(action())
    except (gdb.GdbError, gdb.error) as error:
        gdb.write("nested: the breakpoint cannot look at the chain: {}\n".format(error))
        return True


def _word(address: int) -> int:
    """Return the 64-bit word at a virtual address of the vCPU, in its byte order."""
    data = bytes(gdb.selected_inferior().read_memory(address, 8))
    return int.from_bytes(data, "little" if little_endian() else "big")


def _thread() -> int:
    thread = gdb.selected_thread()
    return 0 if thread is None else thread.num
