"""A guest and its model together, driven by lines of the trace language."""

from nestscope.decoders.state import Chain, NestedGuest, State, Vm
from nestscope.sim.events import Result
from nestscope.sim.facts import NOTHING_UNUSUAL, HostFacts, Observations
from nestscope.sim.guest import Guest
from nestscope.sim.model import Model
from nestscope.sim.operations import Operation
from nestscope.sim.trace import parse_line

PTE = 0xC000_0000_0000_0000
FLAGS = 0xFFF
PAYLOAD_GFN_64K = 0x80
PTCR = "ptcr 0x40004"

FORM = {1: "single", 2: "list"}


class World:
    """`run` executes lines; the rest looks at the State, which is what users see."""

    def __init__(self, *, start: bool = True, **facts: int) -> None:
        self.guest = Guest()
        self.model = Model(HostFacts(**facts))  # type: ignore[arg-type]
        for event in self.guest.setup():
            self.model.step(event)
        if start:
            self.run(PTCR)

    def run(self, *lines: str, observed: Observations = NOTHING_UNUSUAL) -> Result:
        result = Result()
        for line in lines:
            operation = parse_line(1, line)
            assert operation is not None
            result = self.do(operation, observed)
        return result

    def do(self, operation: Operation, observed: Observations = NOTHING_UNUSUAL) -> Result:
        result = Result()
        events = self.guest.lower(operation)
        for event in events:
            last = event is events[-1]
            result = self.model.step(event, observed if last else NOTHING_UNUSUAL)
        return result

    @property
    def state(self) -> State:
        return self.model.state()

    @property
    def vm(self) -> Vm:
        return self.state.vms[0]

    def nested(self, l1_lpid: int) -> NestedGuest | None:
        return next((n for n in self.vm.nested if n.l1_lpid == l1_lpid), None)

    def chain(self, gpa: int) -> tuple[str, tuple[tuple[int, int], ...]] | None:
        """Form and entries of the chain of a guest page, head first."""
        page_shift = self.model.facts.page_shift
        for chain in (chain for memslot in self.vm.memslots for chain in memslot.rmap):
            if chain.gfn == gpa >> page_shift:
                return chain.form, tuple((e.l1_lpid, e.n_gpa) for e in chain.entries)
        return None

    def chains(self) -> list[Chain]:
        return list(self.vm.memslots[0].rmap)

    def shadow(self, l1_lpid: int, n_gpa: int) -> int | None:
        """PTE of the shadow leaf that covers `n_gpa`."""
        nested = self.nested(l1_lpid)
        leaf = nested.leaves.covering(n_gpa) if nested else None
        return leaf.pte if leaf else None

    def shadow_flags(self, l1_lpid: int, n_gpa: int) -> int | None:
        pte = self.shadow(l1_lpid, n_gpa)
        return None if pte is None else pte & FLAGS

    def host(self, gpa: int) -> int | None:
        leaf = self.vm.host_leaves.covering(gpa)
        return leaf.pte if leaf else None

    def host_shift(self, gpa: int) -> int | None:
        """log2 of the size of the host leaf that covers `gpa`."""
        leaf = self.vm.host_leaves.covering(gpa)
        return leaf.shift if leaf else None

    def shadow_shift(self, l1_lpid: int, n_gpa: int) -> int | None:
        nested = self.nested(l1_lpid)
        leaf = nested.leaves.covering(n_gpa) if nested else None
        return leaf.shift if leaf else None
