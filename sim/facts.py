"""`HostFacts`: what the model is told about the host instead of guessing it."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class MemoryHabits:
    """How the host's memory management treats private pages, where hosts differ.

    `has_huge_pages`: transparent ones; not on QEMU's powernv machines, where the
    kernel does not know the AP encoding of 2 MiB (`radix__has_transparent_hugepage`).
    `split_to_zero_page`: of a huge page that is split, parts of zeros become the zero
    page (since b1f202060afe, 6.12). `split_cleans`: mprotect makes only pages writable again
    whose PTE is dirty, and those of a huge page that is mapped by base pages are clean
    (6.1: mm/mprotect.c line 49, mm/huge_memory.c line 2255). `huge_stays_readonly`: it makes
    no huge page writable again (6.1: mm/huge_memory.c line 1940). `reuses_last_part`:
    after a fork the first write takes the last base page that is left of a huge page
    as it is, and does not copy it (6.1: mm/memory.c line 3485). `split_sets_soft_dirty`:
    a huge page that is mapped by base pages sets their soft-dirty bits, even if they were clear
    (6.12: mm/huge_memory.c line 2874). `migration_sets_soft_dirty`: moving a dirty page sets its
    soft-dirty bit (6.1: mm/migrate.c line 213).
    `reuses_parts`: after a fork it takes any other part as it is, and copies the last one
    only (since 1da190f4d0a6, 6.15).
    """

    has_huge_pages: bool = True
    split_to_zero_page: bool = False
    split_cleans: bool = False
    huge_stays_readonly: bool = False
    reuses_last_part: bool = False
    reuses_parts: bool = False
    split_sets_soft_dirty: bool = False
    migration_sets_soft_dirty: bool = False


NO_HABITS = MemoryHabits()
"""A host with huge pages that has none of the others, as 6.12 before b1f202060afe."""


@dataclass(frozen=True, slots=True)
class HostFacts:
    """Constants of one host for a whole run.

    `page_shift`: log2 of the host kernel's base page size (12 or 16).
    `rc_by_hardware`: the hardware writes R and C into the leaf itself (QEMU up
    to 8.1); otherwise it raises a storage interrupt with DSISR_SET_RC.
    `hisi_flags_visible`: SRR1 of an H instruction storage interrupt reaches the
    host with its cause bits. QEMU's H_ENTER_NESTED masks them out (`msr_mask`), so
    on a pseries machine the host sees none; bare metal shows them.
    `system_call_level_visible`: SRR1 of a system call reaches the host with LEV in its bits
    42:43, as Power ISA 3.1 has it (POWER10; QEMU does so since 8.1). Before, they are 0.
    `first_lpid`: the lowest LPID that is free when the VM is created
    (`kvmppc_alloc_lpid` starts at 1 and takes the lowest free one).
    `tlbie_shifts`: log2 of the page sizes of which the host knows the AP encoding
    (`mmu_psize_defs`); a tlbie with another one is H_PARAMETER. The kernel has them
    from "ibm,processor-radix-AP-encodings" of the device tree; without it 12 and 16
    only (`radix__early_init_devtree`), as on QEMU's powernv machines.
    `release`: the kernel's release, for the State only.
    `pseries`: the host is itself a guest of a hypervisor (`kvmhv_on_pseries`).
    `reads_instructions`: the host can load a nested guest's instruction, to
    emulate MMIO. On pseries that needs H_COPY_TOFROM_GUEST, which QEMU lacks.
    `readonly_memslots`: KVM_MEM_READONLY is accepted
    (CONFIG_HAVE_KVM_READONLY_MEM, which no architecture code for POWER selects:
    there the branches for read-only slots cannot be reached).
    `ages_by_reclaim`: pages are aged when they are to be reclaimed, as without DAMON.
    `habits`: how its memory management treats private pages.
    `mended`: numbers of the findings (`MENDABLE`) that this kernel does not have: the model
    then does what each account says under "What would mend it".
    """

    page_shift: int = 16
    rc_by_hardware: bool = True
    hisi_flags_visible: bool = False
    system_call_level_visible: bool = False
    first_lpid: int = 1
    tlbie_shifts: frozenset[int] = frozenset({12, 16, 21, 30})
    release: str | None = None
    pseries: bool = True
    reads_instructions: bool = False
    readonly_memslots: bool = False
    ages_by_reclaim: bool = False
    habits: MemoryHabits = NO_HABITS
    mended: frozenset[str] = frozenset()


MENDABLE = ("0001", "0002", "0003", "0006", "0007", "0010")
"""Findings of docs/findings whose mending changes what the model predicts."""

PLACES = (
    "nested_guest",
    "nested_idr",
    "pud_table",
    "pmd_table",
    "pte_table",
    "rmap_node",
    "retry_before",
    "retry",
    "memslot",
    "htab",
)
"""Names that `Observations.failures` may hold."""


@dataclass(frozen=True, slots=True)
class Observations:
    """What happened inside one step and cannot be known beforehand.

    `failures`: places where the host could not go on, in the order in which
    they happened; each strikes once, at the first attempt that gets there:
    `nested_guest` (`kvmhv_alloc_nested`: memory or LPIDs are used up),
    `nested_idr` (`__prealloc_nested`), `pud_table`, `pmd_table`, `pte_table`,
    `rmap_node` (the allocation failed), `memslot` (`kvm_set_memslot`, -ENOMEM),
    `htab` (`kvmppc_allocate_hpt`, -ENOMEM),
    `retry_before` (an unrelated invalidation between reading the sequence number
    and looking for the host page: `find_kvm_host_pte` gives nothing), `retry`
    (one before the leaf is set: `mmu_invalidate_retry` in `kvmppc_create_pte`).
    `host_pages`: real page numbers of abstract frames, where they matter: the
    kernel passes one as a guest address when it frees a table (transition 22).
    A frame that is not named has a number that no slot has.
    `refused`: the errno with which the host refused what the event asks of its
    memory management (a huge page); it then changed nothing.
    `huge_refused`: how many faults found no memory for a huge page and took a base page.
    `moved`: the pages that a migration moved, bit i for page i; None: all.
    """

    failures: tuple[str, ...] = ()
    refused: int = 0
    moved: int | None = None
    huge_refused: int = 0
    host_pages: Mapping[int, int] = field(default_factory=dict)


NOTHING_UNUSUAL = Observations()
