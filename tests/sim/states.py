"""Small States, written down by hand: one VM, one memslot, one nested guest unless told."""

from collections.abc import Sequence

from nestscope.decoders.state import (
    FORM_LIST,
    FORM_SINGLE,
    Chains,
    KernelInfo,
    Leaves,
    Memslot,
    NestedGuest,
    Problem,
    Source,
    State,
    Vm,
)

LEAF = 0xC000_0000_0000_0000
RWXRC = LEAF | 0x187
KVM = 0xC000_0000_0123_0000
ARRAY = 0xC008_0000_0045_0000
PAGE = 0x1_0000

Row = tuple[int, int, int]


def guest(l1_lpid: int, leaves: Sequence[Row] = (), **changes: int | None) -> NestedGuest:
    """A nested guest; leaves are `(n_gpa, shift, pte)`."""
    values: dict[str, int | None] = {
        "shadow_lpid": 100 + l1_lpid,
        "refcnt": 1,
        "l1_gr_to_hr": 0x4000_0000_0010_00AD,
        "process_table": 0,
        "shadow_pgtable": 0xC000_0000_0200_0000 + l1_lpid * PAGE,
    } | changes
    return NestedGuest(l1_lpid, leaves=Leaves.build(leaves), **values)  # type: ignore[arg-type]


def chain(gfn: int, *entries: tuple[int, int]) -> tuple[int, int, Sequence[tuple[int, int]]]:
    """A chain in the form that its length asks for, head first."""
    return gfn, FORM_SINGLE if len(entries) == 1 else FORM_LIST, entries


def slot(*chains: tuple[int, int, Sequence[tuple[int, int]]], id_: int = 0) -> Memslot:
    """A memslot of 1024 pages from guest real address 0."""
    return Memslot(id_, 0, 1024, 0x1000_0000_0000, 0, ARRAY, Chains.build(chains))


def vm(
    *,
    host: Sequence[Row] = (),
    memslots: Sequence[Memslot] = (),
    nested: Sequence[NestedGuest] = (),
    held: bool | None = False,
    kvm: int = KVM,
    lpid: int | None = 1,
) -> Vm:
    """A VM; host leaves are `(gpa, shift, pte)`."""
    leaves = Leaves.build(host)
    return Vm(kvm, lpid, True, held, 0x40004, tuple(memslots), leaves, tuple(nested))


def state(*vms: Vm, page_shift: int | None = 16, problems: Sequence[Problem] = ()) -> State:
    """A State of these VMs."""
    return State(Source("test", "test"), KernelInfo(None, page_shift), vms, tuple(problems))
