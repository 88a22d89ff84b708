"""Coverage: what a program reached that no program reached before. It chooses the corpus."""

import zlib
from typing import Protocol

from nestscope.decoders.state import State
from nestscope.plugin.differential.runner import Step


class CoverageSource(Protocol):
    """Says what was reached: numbers that mean nothing but "this one".

    Made once for a booted machine, so that what it reports is new for that machine.
    """

    def new_blocks(self) -> frozenset[int]:
        """Return what was reached since the last call and never before."""
        ...


class StepSignal:
    """Coverage without looking into the kernel: which effects of which operations were seen.

    One number stands for a kind of operation, what it returned, and which parts of the
    State became more or fewer.
    """

    def __init__(self) -> None:
        self._seen: set[int] = set()
        self._new: set[int] = set()
        self._before: tuple[int, ...] = ()

    def begin(self) -> None:
        """Say that a program begins: nothing is there yet."""
        self._before = ()

    def note(self, step: Step) -> None:
        """Take in a compared step."""
        now = _amounts(step.observed)
        changes = tuple(_sign(b - a) for a, b in zip(self._before or now, now, strict=False))
        self._before = now
        results = [(r.ret, r.hdsisr, r.r3) for r in step.results[-1:]]
        longest = _longest_chain(step.observed).bit_length()
        text = repr((type(step.operation).__name__, results, changes, longest))
        block = zlib.crc32(text.encode())
        if block not in self._seen:
            self._new.add(block)

    def new_blocks(self) -> frozenset[int]:
        """Return what was reached since the last call and never before."""
        new = frozenset(self._new)
        self._seen |= new
        self._new.clear()
        return new


def _amounts(state: State) -> tuple[int, ...]:
    """Return how much of everything a State has."""
    memslots = [memslot for vm in state.vms for memslot in vm.memslots]
    return (
        len(memslots),
        sum(len(memslot.rmap) for memslot in memslots),
        sum(len(memslot.rmap.entries) for memslot in memslots),
        sum(len(vm.host_leaves) for vm in state.vms),
        sum(len(vm.nested) for vm in state.vms),
        sum(len(nested.leaves) for vm in state.vms for nested in vm.nested),
    )


def _longest_chain(state: State) -> int:
    lengths = [
        int(memslot.rmap.index["count"].max())
        for vm in state.vms
        for memslot in vm.memslots
        if len(memslot.rmap)
    ]
    return max(lengths, default=0)


def _sign(number: int) -> int:
    return (number > 0) - (number < 0)
