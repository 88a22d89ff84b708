"""What an operation makes the kernel do: a word for signatures, the way through its functions.

Two troubles that look alike have two causes if they come from different actions; loads,
stores and fetches come to the same functions, so they are one.
"""

from nestscope.sim.constants import H_ENTER_NESTED
from nestscope.sim.operations import Fetch, Load, Operation, RawHcall, Store, Together
from nestscope.sim.trace import format_operation

ACCESS = "access"
_AFTER, _TOGETHER, _AND = ", after ", "together ", " and "
_NOTIFIER = (
    "kvm_mmu_notifier_invalidate_range_start",
    "kvm_unmap_gfn_range",
    "kvm_unmap_radix",
    "kvmppc_unmap_pte",
    "kvmhv_remove_nest_rmap_range",
)
_FLUSH = ("kvmppc_core_flush_memslot_hv", "kvmppc_radix_flush_memslot", "kvmppc_unmap_pte")
_TLBIE = (
    "kvmhv_do_nested_tlbie",
    "kvmhv_emulate_priv_tlbie",
    "kvmhv_emulate_tlbie_tlb_addr|kvmhv_emulate_tlbie_lpid|kvmhv_emulate_tlbie_all_lpid",
    "kvmhv_invalidate_shadow_pte|kvmhv_flush_nested",
)
PATHS: dict[str, tuple[str, ...]] = {
    ACCESS: (
        "kvmhv_enter_nested_guest",
        "kvmhv_nested_page_fault",
        "__kvmhv_nested_page_fault",
        "kvmppc_create_pte",
        "kvmhv_insert_nest_rmap",
    ),
    "tlbie": _TLBIE,
    "drop": _TLBIE,
    "rpti": ("kvmppc_h_rpt_invalidate", "do_h_rpt_invalidate_pat"),
    "ptcr": ("kvmhv_set_partition_table",),
    **dict.fromkeys(
        ("discard", "migrate", "remap", "protect", "collapse", "split", "fork", "write", "thp"),
        _NOTIFIER,
    ),
    "age": ("kvm_age_gfn", "kvm_age_radix", "kvmhv_update_nest_rmap_rc_list"),
    "dirtylog": (
        "kvm_vm_ioctl_get_dirty_log_hv",
        "kvmppc_hv_get_dirty_log_radix",
        "kvm_radix_test_clear_dirty",
        "kvmhv_update_nest_rmap_rc_list",
    ),
    "slotflags": ("kvmppc_core_commit_memory_region_hv", *_FLUSH[1:]),
    **dict.fromkeys(("unslot", "moveslot"), _FLUSH),
    "slot": ("kvmppc_core_commit_memory_region_hv",),
    "destroy": ("kvmppc_core_destroy_vm_hv", "kvmhv_release_all_nested"),
    **dict.fromkeys(("hpt", "htab"), ("kvmppc_switch_mmu_to_hpt", "kvmhv_release_all_nested")),
    "radix": ("kvmppc_switch_mmu_to_radix",),
}
"""The kernel's functions on the way of an action, the first called first. `|`: one of them."""


def action_of(operation: Operation) -> str:
    """Return what an operation does, in a word: its verb, or `access`."""
    if isinstance(operation, Together):
        parts = sorted({action_of(each) for each in operation.operations})
        return f"{_TOGETHER}{_AND.join(parts)}"
    entry = isinstance(operation, RawHcall) and operation.number == H_ENTER_NESTED
    if entry or isinstance(operation, Load | Store | Fetch):
        return ACCESS
    return format_operation(operation).split()[0]


def paths_of(operation: Operation) -> list[tuple[str, tuple[str, ...]]]:
    """Return each action of an operation with its way, where it is known."""
    parts = operation.operations if isinstance(operation, Together) else (operation,)
    actions = dict.fromkeys(action_of(each) for each in parts)
    return [(action, PATHS[action]) for action in actions if action in PATHS]


def signed(what: str, operation: Operation) -> str:
    """Return the signature of what was seen after an operation."""
    return f"{what}{_AFTER}{action_of(operation)}"


def covers(signature: str, found: str) -> bool:
    """Say whether what was `found` can be what `signature` tells: the same, of fewer at once."""
    what, _, action = signature.partition(_AFTER)
    found_what, _, found_action = found.partition(_AFTER)
    return what == found_what and _parts(found_action) <= _parts(action)


def _parts(action: str) -> set[str]:
    return set(action.removeprefix(_TOGETHER).split(_AND))
