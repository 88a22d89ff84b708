"""Compare two States and name every difference by its path.

`expected` is usually the model's State, `observed` the kernel's. Addresses of
host objects and host frames mean nothing to the model, so they are compared up
to a *one-to-one renaming*: the same expected frame must always be the same
observed frame, and two different ones must stay different. Everything else is
compared as it is. Unknown never equals anything, not even unknown.

Bits left out of leaves, and only these: SW1, SW2 and SW3 (mask 0xE00). KVM
builds host leaves from the PTE of the host process
(`kvmppc_book3s_instantiate_page`) and shadow leaves from host leaves, so they
inherit bits that Linux keeps for its own use (soft-dirty, special, devmap)
and that neither the hardware nor KVM reads in a partition-scoped tree.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nestscope.decoders.compare_frames import Paired, compare_frames
from nestscope.decoders.renaming import Difference, Renaming
from nestscope.decoders.state import (
    Chain,
    Chains,
    Columns,
    Leaf,
    Leaves,
    Memslot,
    NestedGuest,
    Running,
    State,
    Vm,
)
from nestscope.decoders.words.pate import PATE_RPDB
from nestscope.decoders.words.pte import PTE_RPN

__all__ = ["Difference", "Renaming", "compare", "describe_chain", "describe_leaf"]

SOFTWARE_BITS = 0xE00
"""SW1:3 (ISA bits 52:54) of a PTE; see the module's text."""

_FLAGS = ~PTE_RPN & ~SOFTWARE_BITS & (2**64 - 1)
_SMALLEST_PAGE_SHIFT = 12


def compare(expected: State, observed: State, renaming: Renaming | None = None) -> list[Difference]:
    """Return every difference between two States, in the order of the State.

    `renaming` is updated when the States agree on it; pass the same object
    for every step of a run.
    """
    return _Comparison(renaming or Renaming()).states(expected, observed)


class _Comparison:
    def __init__(self, renaming: Renaming) -> None:
        self.renaming = renaming
        self.frames: list[Paired] = []
        self.objects: dict[tuple[str, int], int] = {}
        """Observed address of every expected one, by kind."""
        self.owners: dict[tuple[str, int], int] = {}
        """Expected address of every observed one, by kind."""
        self.differences: list[Difference] = []
        self.page_shift = _SMALLEST_PAGE_SHIFT

    def states(self, expected: State, observed: State) -> list[Difference]:
        for side, state in (("expected", expected), ("observed", observed)):
            for problem in state.problems:
                self.note(problem.path, "a readable value", f"{problem.message} ({side} side)")
        self.value("kernel.page_shift", expected.kernel.page_shift, observed.kernel.page_shift)
        self.page_shift = expected.kernel.page_shift or _SMALLEST_PAGE_SHIFT
        self.matched(
            "vms",
            "lpid",
            expected.vms,
            observed.vms,
            self.vm,
        )
        self.differences += compare_frames(self.frames, self.renaming, self.page_shift)
        self.renaming.objects = self.objects
        return self.differences

    def note(self, path: str, expected: object, observed: object) -> None:
        self.differences.append(Difference(path, str(expected), str(observed)))

    def value(
        self, path: str, expected: int | None, observed: int | None, *, show: Any = str
    ) -> None:
        if expected is None or observed is None:
            self.note(
                path,
                "unknown" if expected is None else show(expected),
                "unknown" if observed is None else show(observed),
            )
        elif expected != observed:
            self.note(path, show(expected), show(observed))

    def host_address(
        self, path: str, kind: str, expected: int | None, observed: int | None
    ) -> None:
        """Compare addresses of host objects of one kind up to the renaming."""
        if expected is None or observed is None:
            self.value(path, expected, observed, show=hex)
            return
        key = (kind, expected)
        known = self.renaming.objects.get(key, observed)
        if known != observed:
            self.note(path, f"{hex(known)} as before", hex(observed))
        if self.objects.setdefault(key, observed) != observed:
            self.note(path, hex(self.objects[key]), hex(observed))
        if self.owners.setdefault((kind, observed), expected) != expected:
            self.note(path, f"an address of its own for this {kind}", hex(observed))

    def matched(
        self,
        path: str,
        key_name: str,
        expected: Sequence[Any],
        observed: Sequence[Any],
        visit: Callable[[str, Any, Any], None],
    ) -> None:
        """Pair two sets by the member `key_name`, report what one side has, visit the pairs."""
        left, right = _keyed(expected, key_name), _keyed(observed, key_name)
        for key in [*left, *(key for key in right if key not in left)]:
            where = f"{path}[{key_name}={key}]"
            if key not in right:
                self.note(where, "present", "absent")
            elif key not in left:
                self.note(where, "absent", "present")
            else:
                visit(where, left[key], right[key])

    def vm(self, path: str, expected: Vm, observed: Vm) -> None:
        self.host_address(f"{path}.kvm", "kvm", expected.kvm, observed.kvm)
        self.value(f"{path}.radix", expected.radix, observed.radix)
        self.value(f"{path}.mmu_lock_held", expected.mmu_lock_held, observed.mmu_lock_held)
        self.value(f"{path}.l1_ptcr", expected.l1_ptcr, observed.l1_ptcr, show=hex)
        self.matched(
            f"{path}.memslots",
            "id",
            expected.memslots,
            observed.memslots,
            self.memslot,
        )
        self.leaves(f"{path}.host_leaves", "gpa", expected.host_leaves, observed.host_leaves)
        self.matched(
            f"{path}.nested",
            "l1_lpid",
            expected.nested,
            observed.nested,
            self.nested,
        )
        self.running(f"{path}.running", expected, observed)
        self.matched(
            f"{path}.orphans",
            "l1_lpid",
            expected.orphans,
            observed.orphans,
            self.nested,
        )

    def running(self, path: str, expected: Vm, observed: Vm) -> None:
        """Compare which nested guests vCPUs are in.

        A capture of before these members were read does not tell; two such captures
        can still be compared.
        """
        if expected.running is None and observed.running is None:
            return
        if expected.running is None or observed.running is None:
            self.note(path, _known(expected.running), _known(observed.running))
            return
        self.matched(path, "vcpu_id", expected.running, observed.running, self.vcpu)

    def vcpu(self, path: str, expected: Running, observed: Running) -> None:
        self.nested_address(path, expected.nested, observed.nested)

    def nested_address(self, path: str, expected: int | None, observed: int | None) -> None:
        self.host_address(path, "nested", expected, observed)

    def shadow_pate(self, path: str, expected: NestedGuest, observed: NestedGuest) -> None:
        """Compare partition table entries; the root in dw0 is an address of the host."""
        left, right = expected.shadow_pate, observed.shadow_pate
        if left is None and right is None:
            return  # as of `running`
        if left is None or right is None:
            self.note(path, _known(left), _known(right))
            return
        self.value(f"{path}.dw0", left[0] & ~PATE_RPDB, right[0] & ~PATE_RPDB, show=hex)
        self.host_address(f"{path}.RPDB", "RPDB", left[0] & PATE_RPDB, right[0] & PATE_RPDB)
        self.value(f"{path}.dw1", left[1], right[1], show=hex)

    def memslot(self, path: str, expected: Memslot, observed: Memslot) -> None:
        for name in ("base_gfn", "npages", "flags"):
            self.value(f"{path}.{name}", getattr(expected, name), getattr(observed, name))
        for name in ("userspace_addr", "rmap_array"):
            self.host_address(
                f"{path}.{name}", name, getattr(expected, name), getattr(observed, name)
            )
        self.chains(f"{path}.rmap", expected.rmap, observed.rmap)

    def nested(self, path: str, expected: NestedGuest, observed: NestedGuest) -> None:
        self.value(f"{path}.shadow_lpid", expected.shadow_lpid, observed.shadow_lpid)
        self.value(f"{path}.refcnt", expected.refcnt, observed.refcnt)
        for name in ("l1_gr_to_hr", "process_table"):
            self.value(f"{path}.{name}", getattr(expected, name), getattr(observed, name), show=hex)
        self.host_address(
            f"{path}.shadow_pgtable",
            "shadow_pgtable",
            expected.shadow_pgtable,
            observed.shadow_pgtable,
        )
        if expected.address is not None or observed.address is not None:
            self.nested_address(f"{path}.address", expected.address, observed.address)
        self.shadow_pate(f"{path}.shadow_pate", expected, observed)
        self.leaves(f"{path}.leaves", "n_gpa", expected.leaves, observed.leaves)

    def chains(self, path: str, expected: Chains, observed: Chains) -> None:
        """Chains must agree in form, entries and order."""
        if np.array_equal(expected.index, observed.index) and np.array_equal(
            expected.entries, observed.entries
        ):
            return
        left = {chain.gfn: chain for chain in expected}
        right = {chain.gfn: chain for chain in observed}
        for gfn in sorted({*left, *right}):
            if left.get(gfn) != right.get(gfn):
                self.note(
                    f"{path}[gfn={gfn:#x}]",
                    describe_chain(left.get(gfn)),
                    describe_chain(right.get(gfn)),
                )

    def leaves(self, path: str, name: str, expected: Leaves, observed: Leaves) -> None:
        """Leaves must agree in address, size and every flag; frames wait for the renaming."""
        left, right = expected.columns, observed.columns
        if len(left) == len(right) and _same_but_frame(left, right).all():
            self.frames.append((path, left, right))
            return
        both, left_at, right_at = np.intersect1d(
            left["address"], right["address"], assume_unique=True, return_indices=True
        )
        same = _same_but_frame(left[left_at], right[right_at])
        self.frames.append((path, left[left_at][same], right[right_at][same]))
        left_by_address = {leaf.address: leaf for leaf in expected}
        right_by_address = {leaf.address: leaf for leaf in observed}
        agreed = set(both[same].tolist())
        for address in sorted({*left_by_address, *right_by_address} - agreed):
            self.note(
                f"{path}[{name}={address:#x}]",
                describe_leaf(left_by_address.get(address)),
                describe_leaf(right_by_address.get(address)),
            )


def _keyed(items: Sequence[Any], name: str) -> dict[str, Any]:
    """Return items by a member. The second one with a value has `#2` behind it, and so on.

    vCPUs can be in several nested guests that had one name, one after the other.
    """
    seen: Counter[object] = Counter()
    keyed: dict[str, Any] = {}
    for item in items:
        value = getattr(item, name)
        seen[value] += 1
        keyed[f"{value}#{seen[value]}" if seen[value] > 1 else f"{value}"] = item
    return keyed


def _known(value: object) -> str:
    return "unknown" if value is None else "known"


def describe_chain(chain: Chain | None) -> str:
    """One line for a chain: head first, or `empty`."""
    if chain is None:
        return "empty"
    entries = " -> ".join(f"({entry.l1_lpid}, {entry.n_gpa:#x})" for entry in chain.entries)
    return f"{chain.form} {entries}"


def describe_leaf(leaf: Leaf | None) -> str:
    """One line for a leaf, or `no leaf`."""
    return "no leaf" if leaf is None else f"pte {leaf.pte:#018x} shift {leaf.shift}"


def _same_but_frame(left: Columns, right: Columns) -> NDArray[np.bool_]:
    same: NDArray[np.bool_] = (
        (left["address"] == right["address"])
        & (left["shift"] == right["shift"])
        & (((left["pte"] ^ right["pte"]) & np.uint64(_FLAGS)) == 0)
    )
    return same
