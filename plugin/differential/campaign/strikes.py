"""Strikes: one change of the kernel's data in every program, as soon as there is something to hit.

They depend on the State alone, not on the number of the step, so that a program can be
shrunk to the operations that made what is hit.
"""

from collections.abc import Callable, Iterator

from nestscope.decoders.errors import UnreadableMemoryError
from nestscope.decoders.state import State, Vm
from nestscope.decoders.words.pde import PDE_NLB, PDE_NLS
from nestscope.decoders.words.pte import PTE_EAA_EXECUTE, PTE_LEAF, PTE_V
from nestscope.decoders.words.rmap import RMAP_LPID_SHIFT
from nestscope.plugin.differential.campaign.station import Booted, Strike

_WORD = 8
_ROOT_BITS = 13
_LINEAR = 0xC000_0000_0000_0000
_ADDRESS_BITS = 52

Place = Callable[[Booted, State], Iterator[tuple[int, bytes]]]
"""Yields what could be hit: physical address and the bytes to write there."""


def _once(places: Place) -> Strike:
    """Return a strike that hits the first place there is, once in a program."""

    def strike(booted: Booted, number: int) -> None:
        if number == 1:
            booted.struck = False
        if booted.struck:
            return
        memory = booted.machine.kernel.memory
        memory.forget()
        hit = next(places(booted, booted.machine.state()), None)
        if hit is not None:
            with booted.debugger() as session:
                session.write(*hit)
            booted.struck = True

    return strike


def _single_entries(booted: Booted, state: State) -> Iterator[tuple[int, int]]:
    """Yield physical address and value of the words that hold one entry."""
    kernel = booted.machine.kernel
    for vm in state.vms:
        for memslot in vm.memslots:
            for chain in memslot.rmap:
                if chain.form == "single" and memslot.rmap_array is not None:
                    at = memslot.rmap_array + (chain.gfn - memslot.base_gfn) * _WORD
                    yield kernel.memory.translate(at), kernel.memory.u64(at)


def _flipped_lpids(booted: Booted, state: State) -> Iterator[tuple[int, bytes]]:
    order = booted.machine.kernel.byteorder
    for address, word in _single_entries(booted, state):
        yield address, (word ^ 1 << RMAP_LPID_SHIFT).to_bytes(_WORD, order)


def _dropped(booted: Booted, state: State) -> Iterator[tuple[int, bytes]]:
    for address, _ in _single_entries(booted, state):
        yield address, bytes(_WORD)


def _shadow_leaves(booted: Booted, state: State) -> Iterator[tuple[int, int]]:
    """Yield physical address and value of the words of shadow leaves."""
    for vm in state.vms:
        yield from _leaves_of(booted, vm)


def _leaves_of(booted: Booted, vm: Vm) -> Iterator[tuple[int, int]]:
    memory = booted.machine.kernel.memory
    for nested in vm.nested:
        for leaf in nested.leaves:
            table, bits, shift = nested.shadow_pgtable or 0, _ROOT_BITS, _ADDRESS_BITS
            while table:
                shift -= bits
                at = table + (leaf.address >> shift & (1 << bits) - 1) * _WORD
                try:
                    # The tables are big-endian whatever the kernel is.
                    word = int.from_bytes(memory.read(at, _WORD), "big")
                except UnreadableMemoryError:
                    break
                if word & PTE_LEAF == PTE_LEAF:
                    yield memory.translate(at), word
                if word & PTE_LEAF != PTE_V:
                    break
                table, bits = word & PDE_NLB | _LINEAR, word & PDE_NLS


def _cleared(booted: Booted, state: State) -> Iterator[tuple[int, bytes]]:
    for address, _ in _shadow_leaves(booted, state):
        yield address, bytes(_WORD)


def _other_execute(booted: Booted, state: State) -> Iterator[tuple[int, bytes]]:
    for address, word in _shadow_leaves(booted, state):
        yield address, (word ^ PTE_EAA_EXECUTE).to_bytes(_WORD, "big")


flip_entry_lpid = _once(_flipped_lpids)
drop_entry = _once(_dropped)
clear_shadow_leaf = _once(_cleared)
flip_shadow_execute = _once(_other_execute)
