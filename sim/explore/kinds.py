"""The kinds of broken interleavings that are understood: what happens, and what is lost.

The explorer finds; this is where a person has said what it means. A broken interleaving
of no kind is new, and a test fails until it is understood.
"""

from collections.abc import Collection
from typing import NamedTuple


class Kind(NamedTuple):
    """One explained way to break an invariant.

    `rules`: the rules that it breaks. `tasks`: operations of which one name each must be
    taking part. `text`: kernel functions, what is lost. `finding`: file in docs/findings.
    """

    id: str
    title: str
    rules: frozenset[str]
    tasks: tuple[frozenset[str], ...]
    text: str
    finding: str | None

    def covers(self, rule: str, tasks: Collection[str]) -> bool:
        """Whether a rule broken by these operations is of this kind."""
        return rule in self.rules and all(names & set(tasks) for names in self.tasks)


def names(*tasks: str) -> frozenset[str]:
    """Return names of operations of which any one will do."""
    return frozenset(tasks)


DROPS = names("drop", "drop and reuse")

KINDS = (
    Kind(
        "lost-dirty",
        "A store of a nested guest is missing from the dirty log",
        names("I4"),
        (names("fault (store)"), names("dirty clear")),
        "`__kvmhv_nested_page_fault` reads the host leaf under `mmu_lock` (with C set), drops "
        "the lock, and later gives the shadow leaf the C that it read. In between "
        "`kvm_radix_test_clear_dirty` clears C of the host leaf and of the shadow leaves that "
        "the chain leads to; it does not count `mmu_invalidate_seq` up, so "
        "`kvmppc_create_pte` sees nothing to retry. The shadow leaf has C and the host leaf "
        "has not: the nested guest's stores raise no interrupt, and the next dirty log, which "
        "looks at the host leaf only, does not name the page. A migration loses the stores.",
        "0004-dirty-clear-races-nested-fault.md",
    ),
    Kind(
        "orphan-leaf",
        "A shadow leaf of a dropped nested guest outlives its host page",
        names("I1", "I2"),
        (names("fault (store)"), names("drop and reuse"), names("unmap")),
        "A vCPU is in the nested guest (it holds a reference) while another drops it: "
        "`kvmhv_remove_nested` takes it out of the idr. The guest then gives the LPID out "
        "again. At its next fault the first vCPU finds `l1_gr_to_hr` 0, "
        "`kvmhv_update_ptbl_cache` reads the new entry, and a shadow leaf and an rmap entry "
        "are made for a nested guest that no longer has a name. When the host takes the page "
        "away, `kvmhv_remove_nest_rmap` looks the name up, finds nothing (or another nested "
        "guest) and goes on; the entry is freed. The leaf stays and maps the freed page for "
        "as long as the vCPU remains in the nested guest.",
        "0005-orphaned-nested-guest-keeps-leaves.md",
    ),
    Kind(
        "orphan",
        "A vCPU runs a nested guest that was dropped",
        names("I6"),
        (DROPS,),
        "`kvmhv_flush_nested` ends in `kvmhv_remove_nested`, whoever else is in the nested "
        "guest. The other vCPU's reference keeps the structure, so nothing is freed too "
        "early, and the shadow tree is empty. By itself that loses nothing: the vCPU's next "
        "fault is reflected, because the partition table entry reads 0. It is the ground on "
        "which the kind `orphan-leaf` grows.",
        None,
    ),
    Kind(
        "flush-all-uaf",
        "Invalidating all LPIDs uses a nested guest after it was freed",
        names("UAF"),
        (names("flush RIC=2 of all", "drop by an invalidation of all"),),
        "`kvmhv_emulate_tlbie_all_lpid` drops `mmu_lock` for each nested guest and takes no "
        "reference. Another vCPU may drop it meanwhile. It needs no other vCPU: with the "
        "partition table entry cleared, `kvmhv_flush_nested` itself gives up the last "
        "reference, and `kvmhv_emulate_tlbie_lpid` then unlocks a mutex in freed memory. "
        "Linux commit 51938dfa8a51 takes a reference; kernels without it have the defect.",
        None,
    ),
    Kind(
        "host-number",
        "Freeing a table of base pages empties the chain of another page",
        names("I1", "I2"),
        (names("guest fault"), names("logging off")),
        "When dirty logging ends, a fault may put a 2 MiB leaf in place of a table of base "
        "pages before the slot is flushed. `kvmppc_unmap_free_pte` (with `full` false) then "
        "calls `kvmppc_unmap_pte` with `pte_pfn(*p) << PAGE_SHIFT` as the guest address: that "
        "is the *host* address. If a slot has a gfn of that number, "
        "`kvmhv_remove_nest_rmap_range` empties the chain of that gfn. No shadow leaf matches "
        "the host page, so all of them stay, without entries: the next unmap of that page "
        "leaves them behind.",
        "0006-table-freed-with-host-address.md",
    ),
)


def kind_of(rule: str, tasks: Collection[str]) -> Kind | None:
    """Return the kind of a rule broken by these operations, None for one not understood."""
    return next((kind for kind in KINDS if kind.covers(rule, tasks)), None)
