"""`HostFacts`: what the model is told about the host instead of guessing it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HostFacts:
    """Constants of one host for a whole run.

    `page_shift`: log2 of the host kernel's base page size (12 or 16).
    `rc_by_hardware`: the hardware writes R and C into the leaf itself (QEMU up
    to 8.1); otherwise it raises a storage interrupt with DSISR_SET_RC.
    `hisi_flags_visible`: SRR1 of an H instruction storage interrupt reaches the
    host with its cause bits. QEMU's H_ENTER_NESTED masks them out (`msr_mask`), so
    on a pseries machine the host sees none; bare metal shows them.
    `first_lpid`: the lowest LPID that is free when the VM is created
    (`kvmppc_alloc_lpid` starts at 1 and takes the lowest free one).
    `release`: the kernel's release, for the State only.
    """

    page_shift: int = 16
    rc_by_hardware: bool = True
    hisi_flags_visible: bool = False
    first_lpid: int = 1
    release: str | None = None


@dataclass(frozen=True, slots=True)
class Observations:
    """What happened inside one step and cannot be known beforehand.

    `failures`: places where the host could not go on, in the order in which
    they happened; each strikes once, at the first attempt that gets there:
    `pud_table`, `pmd_table`, `pte_table`, `rmap_node` (the allocation failed),
    `retry` (an unrelated invalidation made `mmu_invalidate_retry` true).
    """

    failures: tuple[str, ...] = ()


NOTHING_UNUSUAL = Observations()
