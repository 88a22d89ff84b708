"""`State`: what a kernel's nested MMU looks like, wherever it was read from.

Everything meets in this abstraction: `read_state` fills it from real memory,
the model produces it, `compare` and the audit consume it, one renderer draws
it. Large sets are columns (NumPy arrays with named fields); objects for single
rows are made on demand.

*Unknown is not absent*: a scalar that could not be read is `None`, and every
gap in a set has a `Problem` whose path names the set.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

SCHEMA = "nestscope.state/1"

LEAF = np.dtype([("address", "<u8"), ("shift", "u1"), ("pte", "<u8")])
"""A leaf of a radix tree: address that it maps (gpa or n_gpa), log2 of the page size, PTE."""

ENTRY = np.dtype([("l1_lpid", "<u2"), ("n_gpa", "<u8")])
"""An rmap entry: the guest's name for the nested guest, nested real address."""

CHAIN = np.dtype([("gfn", "<u8"), ("form", "u1"), ("first", "<u8"), ("count", "<u8")])
"""A chain: guest frame, form, and its slice of the entries: `count` of them from `first` on."""

FORM_SINGLE = 1
FORM_LIST = 2
FORM_NAMES = {FORM_SINGLE: "single", FORM_LIST: "list"}

Columns = NDArray[np.void]


class Entry(NamedTuple):
    """One rmap entry: nested guest `l1_lpid` maps this gfn at `n_gpa` (bytes)."""

    l1_lpid: int
    n_gpa: int


class Chain(NamedTuple):
    """All rmap entries of one gfn (absolute guest frame number), head (newest) first."""

    gfn: int
    form: str
    entries: tuple[Entry, ...]


class Leaf(NamedTuple):
    """A PTE with V and L set: it maps `2**shift` bytes at `address`."""

    address: int
    shift: int
    pte: int


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that could not be read or is malformed.

    `path` leads into the State (`vms[0].memslots[1].rmap`), `address` is where
    in memory the trouble is, if it has one. `kind` is a stable name for programs,
    `word` the value that is wrong there; only kinds that the audit judges have them.
    """

    path: str
    message: str
    address: int | None = None
    kind: str | None = None
    word: int | None = None


@dataclass(frozen=True)
class Chains:
    """The rmap of a memslot: only gfns with an entry, ascending."""

    index: Columns = field(default_factory=lambda: np.empty(0, CHAIN))
    entries: Columns = field(default_factory=lambda: np.empty(0, ENTRY))

    @classmethod
    def build(cls, chains: Iterable[tuple[int, int, Iterable[tuple[int, int]]]]) -> Self:
        """Make columns from `(gfn, form, [(l1_lpid, n_gpa), ...])` tuples, in any order."""
        index: list[tuple[int, int, int, int]] = []
        entries: list[tuple[int, int]] = []
        for gfn, form, chain in sorted(chains, key=lambda item: item[0]):
            first = len(entries)
            entries.extend((lpid, n_gpa) for lpid, n_gpa in chain)
            index.append((gfn, form, first, len(entries) - first))
        return cls(np.array(index, CHAIN), np.array(entries, ENTRY))

    def __len__(self) -> int:
        return len(self.index)

    def __iter__(self) -> Iterator[Chain]:
        lpids = self.entries["l1_lpid"].tolist()
        n_gpas = self.entries["n_gpa"].tolist()
        for gfn, form, first, count in self.index.tolist():
            end = first + count
            pairs = zip(lpids[first:end], n_gpas[first:end], strict=True)
            yield Chain(gfn, FORM_NAMES[form], tuple(Entry(*pair) for pair in pairs))

    def of(self, gfn: int) -> Chain | None:
        """Return the chain of `gfn`, or None if the rmap word is 0."""
        at = int(np.searchsorted(self.index["gfn"], gfn))
        if at == len(self.index) or int(self.index["gfn"][at]) != gfn:
            return None
        return next(iter(Chains(self.index[at : at + 1], self.entries)))


@dataclass(frozen=True)
class Leaves:
    """All leaves of one radix tree, ascending by address."""

    columns: Columns = field(default_factory=lambda: np.empty(0, LEAF))

    @classmethod
    def build(cls, leaves: Iterable[tuple[int, int, int]]) -> Self:
        """Make columns from `(address, shift, pte)` tuples, in any order."""
        return cls(np.array(sorted(leaves), LEAF))

    def __len__(self) -> int:
        return len(self.columns)

    def __iter__(self) -> Iterator[Leaf]:
        return (Leaf(*row) for row in self.columns.tolist())

    def covering(self, address: int) -> Leaf | None:
        """Return the leaf whose page holds `address`, or None."""
        at = int(np.searchsorted(self.columns["address"], address, side="right")) - 1
        if at < 0:
            return None
        leaf = Leaf(*self.columns[at].tolist())
        return leaf if address < leaf.address + (1 << leaf.shift) else None


@dataclass(frozen=True)
class Memslot:
    """`struct kvm_memory_slot`. `npages` counts kernel base pages; gfns are absolute."""

    id: int
    base_gfn: int
    npages: int
    userspace_addr: int | None
    flags: int | None
    rmap_array: int | None
    rmap: Chains = field(default_factory=Chains)


@dataclass(frozen=True)
class NestedGuest:
    """`struct kvm_nested_guest` and the leaves of its shadow tree (address = n_gpa).

    `address` is the structure's own, `shadow_pate` both doublewords of the entry
    that the host's partition table has for `shadow_lpid` (host order).
    """

    l1_lpid: int
    shadow_lpid: int | None
    refcnt: int | None
    l1_gr_to_hr: int | None
    process_table: int | None
    shadow_pgtable: int | None
    leaves: Leaves = field(default_factory=Leaves)
    address: int | None = None
    shadow_pate: tuple[int, int] | None = None


class Running(NamedTuple):
    """A vCPU that is in a nested guest.

    `vcpu_id`; `nested`: `vcpu->arch.nested`, the address of a `struct kvm_nested_guest`.
    """

    vcpu_id: int
    nested: int


@dataclass(frozen=True)
class Vm:
    """`struct kvm` with what hangs on it. `host_leaves` is `arch.pgtable` (address = gpa).

    `nested` are the nested guests of the idr; `running` the vCPUs that are in one,
    `orphans` those that such a vCPU is in although the idr does not have them.
    """

    kvm: int
    lpid: int | None
    radix: bool | None
    mmu_lock_held: bool | None
    l1_ptcr: int | None
    memslots: tuple[Memslot, ...] = ()
    host_leaves: Leaves = field(default_factory=Leaves)
    nested: tuple[NestedGuest, ...] = ()
    running: tuple[Running, ...] | None = ()
    orphans: tuple[NestedGuest, ...] = ()


@dataclass(frozen=True, slots=True)
class Source:
    """Where a State came from: `kind` ("elf-core", "ram", "gdb", "model", ...) and a name."""

    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class KernelInfo:
    """The kernel's release and log2 of its base page size; None where unknown."""

    release: str | None
    page_shift: int | None


@dataclass(frozen=True)
class State:
    """Everything that nestscope knows of a kernel at one moment."""

    source: Source
    kernel: KernelInfo
    vms: tuple[Vm, ...] = ()
    problems: tuple[Problem, ...] = ()
