"""Random States that a kernel could be in, and a way to compare them without a renaming."""

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from nestscope.decoders.state import (
    FORM_LIST,
    FORM_SINGLE,
    Chains,
    KernelInfo,
    Leaves,
    Memslot,
    NestedGuest,
    Running,
    Source,
    State,
    Vm,
)

SOURCE = Source("model", "test")
LEAF = 0xC000_0000_0000_0000
RPN = 0x01FF_FFFF_FFFF_F000
LEVEL_SHIFTS = {12: (12, 21, 30, 39), 16: (16, 21, 30, 39)}


@st.composite
def leaves(draw: st.DrawFn, page_shift: int) -> Leaves:
    """Leaves at any level that do not overlap, with aligned pages and any other bits."""
    shifts = draw(st.lists(st.sampled_from(LEVEL_SHIFTS[page_shift]), max_size=12))
    # Few places, so that leaves share tables; the last one is the end of the tree.
    area = st.sampled_from(
        (0, 0x80_0000, 1 << 30, 1 << 39, 0x1234_5678_0000, (1 << 52) - (1 << 40))
    )
    taken: list[tuple[int, int]] = []
    rows = []
    for shift in shifts:
        size = 1 << shift
        address = (draw(area) + draw(st.integers(0, 40)) * size) & -size & (1 << 52) - 1
        if any(address < end and start < address + size for start, end in taken):
            continue
        taken.append((address, address + size))
        bits = draw(st.integers(0, 2**64 - 1))
        rows.append((address, shift, LEAF | bits & ~(RPN & size - 1)))
    return Leaves.build(rows)


@st.composite
def chains(draw: st.DrawFn, base_gfn: int, npages: int) -> Chains:
    entry = st.tuples(st.integers(0, 4095), st.integers(0, 2**40 - 1).map(lambda n: n << 12))
    rows = []
    for gfn in draw(st.sets(st.integers(base_gfn, base_gfn + npages - 1), max_size=6)):
        entries = draw(st.lists(entry, min_size=1, max_size=30 if gfn % 3 == 0 else 3))
        rows.append((gfn, FORM_SINGLE if len(entries) == 1 else FORM_LIST, entries))
    return Chains.build(rows)


@st.composite
def memslots(draw: st.DrawFn, *, radix: bool) -> tuple[Memslot, ...]:
    found = []
    base_gfn = 0
    for number in draw(st.lists(st.integers(0, 511), max_size=9, unique=True)):
        base_gfn += draw(st.integers(0, 5000))
        npages = draw(st.integers(1, 9000))
        found.append(
            Memslot(
                id=number,
                base_gfn=base_gfn,
                npages=npages,
                userspace_addr=draw(st.integers(0, 2**64 - 1)),
                flags=draw(st.integers(0, 7)),
                rmap_array=0x5000 + number,
                rmap=draw(chains(base_gfn, npages)) if radix else Chains(),
            )
        )
        base_gfn += npages
    return tuple(draw(st.permutations(found)))


@st.composite
def nested_guests(draw: st.DrawFn, page_shift: int) -> tuple[NestedGuest, ...]:
    word = st.integers(0, 2**64 - 1)
    return tuple(
        NestedGuest(
            l1_lpid=lpid,
            shadow_lpid=draw(st.integers(1, 4095)),
            refcnt=draw(st.integers(0, 9)),
            l1_gr_to_hr=draw(word),
            process_table=draw(word),
            shadow_pgtable=0x7000 + lpid,
            leaves=draw(leaves(page_shift)),
        )
        for lpid in draw(st.lists(st.integers(0, 4095), max_size=5, unique=True))
    )


@st.composite
def vms(draw: st.DrawFn, page_shift: int) -> Vm:
    radix = draw(st.sampled_from((True, True, True, False)))
    guests = draw(nested_guests(page_shift)) if radix else ()
    orphans = draw(nested_guests(page_shift))[:2] if radix else ()
    guests = tuple(replace(each, address=at) for at, each in enumerate(guests))
    orphans = tuple(replace(each, address=100 + at) for at, each in enumerate(orphans))
    # Every orphan has a vCPU in it: nothing else leads there.
    used = [*orphans, *(draw(st.lists(st.sampled_from(guests), max_size=3)) if guests else ())]
    return Vm(
        kvm=draw(st.integers(0, 2**64 - 1)),
        lpid=draw(st.integers(1, 4095)),
        radix=radix,
        mmu_lock_held=draw(st.booleans()),
        l1_ptcr=draw(st.integers(0, 2**64 - 1)),
        memslots=draw(memslots(radix=radix)),
        host_leaves=draw(leaves(page_shift)) if radix else Leaves(),
        nested=guests,
        running=tuple(Running(vcpu, each.address or 0) for vcpu, each in enumerate(used)),
        orphans=orphans,
    )


@st.composite
def states(draw: st.DrawFn, page_shift: int) -> State:
    found = draw(st.lists(vms(page_shift), max_size=3))
    return State(SOURCE, KernelInfo("6.1-test", page_shift), tuple(found))


def plain(state: State) -> dict[str, Any]:
    """Return a State as plain values, with every address as it is."""
    return {
        "kernel": state.kernel,
        "problems": state.problems,
        "vms": [_plain_vm(vm) for vm in state.vms],
    }


def _plain_vm(vm: Vm) -> dict[str, Any]:
    return {
        **vm.__dict__,
        "memslots": [{**slot.__dict__, "rmap": list(slot.rmap)} for slot in vm.memslots],
        "host_leaves": list(vm.host_leaves),
        "nested": [{**guest.__dict__, "leaves": list(guest.leaves)} for guest in vm.nested],
        "orphans": [{**guest.__dict__, "leaves": list(guest.leaves)} for guest in vm.orphans],
    }


def without_addresses(state: State) -> list[Any]:
    """Return what of a State does not depend on where its objects are in memory."""
    found = []
    for vm in plain(state)["vms"]:
        slots = [
            {name: value for name, value in slot.items() if name != "rmap_array"}
            for slot in vm["memslots"]
        ]
        guests = [
            {name: value for name, value in guest.items() if name not in _GUEST_ADDRESSES}
            for guest in vm["nested"]
        ]
        slots.sort(key=lambda slot: (slot["base_gfn"], slot["id"]))
        guests.sort(key=lambda guest: guest["l1_lpid"])
        orphans = [
            {name: value for name, value in guest.items() if name not in _GUEST_ADDRESSES}
            for guest in vm["orphans"]
        ]
        running = [each.vcpu_id for each in vm["running"]]
        found.append(
            {
                **vm,
                "kvm": None,
                "memslots": slots,
                "nested": guests,
                "orphans": orphans,
                "running": running,
            }
        )
    return found


_GUEST_ADDRESSES = ("shadow_pgtable", "address", "shadow_pate")
