"""Layouts of KVM's structures as three families of kernels have them.

They hold the members that are read, in the order of the kernel's headers, and
stand-ins for what lies between: sizes are like those of a distribution's
kernel, not equal to one. What matters is which members there are.
"""

from nestscope.decoders.kernel.types import LayoutSource, Types
from nestscope.sim.image.errors import ImageError
from nestscope.sim.image.layouts import LayoutText

_COMMON = """
struct list_head
    pointer next
    pointer prev
struct hlist_node
    pointer next
    pointer pprev
struct hlist_head
    pointer first
struct rb_node
    u64 __rb_parent_color
    pointer rb_right
    pointer rb_left
struct rb_root
    pointer rb_node
struct rb_root_cached
    rb_root rb_root
    pointer rb_leftmost
struct mutex
    u64 words[4]
struct interval_tree_node
    rb_node rb
    u64 start
    u64 last
    u64 __subtree_last
struct atomic_t
    s32 counter
"""

# arch_spinlock_t of powerpc since 9f61521c7a28 ("powerpc/qspinlock: powerpc
# qspinlock implementation"); before, the generic one or a plain word.
_POWERPC_QSPINLOCK = """
struct arch_spinlock
    u32 val
"""
_GENERIC_QSPINLOCK = """
struct arch_spinlock
    atomic_t val
"""
_PLAIN_SPINLOCK = """
struct arch_spinlock
    u32 slock
"""
_SPINLOCK = """
struct raw_spinlock
    arch_spinlock raw_lock
struct spinlock
    raw_spinlock rlock
"""

_XARRAY = """
struct xarray
    spinlock xa_lock
    u32 xa_flags
    pointer xa_head
struct idr
    xarray idr_rt
    u32 idr_base
    u32 idr_next
struct xa_node
    u8 shift
    u8 offset
    u8 count
    u8 nr_values
    pointer parent
    pointer array
    list_head private_list
    pointer slots[64]
    u64 marks[3]
"""

_ARCH_SLOT = """
struct kvm_arch_memory_slot
    pointer rmap
"""

_SLOT_IN_TREES = """
struct kvm_memory_slot
    hlist_node id_node[2]
    interval_tree_node hva_node[2]
    rb_node gfn_node[2]
    u64 base_gfn
    u64 npages
    pointer dirty_bitmap
    kvm_arch_memory_slot arch
    u64 userspace_addr
    u32 flags
    s16 id
    u16 as_id
struct kvm_memslots
    u64 generation
    u64 last_used_slot
    rb_root_cached hva_tree
    rb_root gfn_tree
    hlist_head id_hash[128]
    s32 node_idx
"""

# Until a54d806688fe ("KVM: Keep memslots in tree-based structures instead of
# array-based ones").
_SLOTS_IN_ARRAY = """
struct kvm_memory_slot
    u64 base_gfn
    u64 npages
    pointer dirty_bitmap
    kvm_arch_memory_slot arch
    u64 userspace_addr
    u32 flags
    s16 id
    u16 as_id
struct kvm_memslots
    u64 generation
    s16 id_to_index[512]
    atomic_t lru_slot
    s32 used_slots
    kvm_memory_slot memslots[0]
"""

_ARCH_START = """
    u32 smt_mode
    u32 emul_smt_mode
    u32 tlb_sets
    u64 hpt[3]
    u64 mmio_update
    u32 host_lpid
    u64 host_lpcr
    u64 sdr1
    u64 host_sdr1
    u64 lpcr
    u64 vrma_slb_v
    s32 mmu_ready
    atomic_t vcpus_running
    u32 online_vcores
    atomic_t hpte_mod_interest
    u64 need_tlb_flush[32]
    u8 radix
    u8 fwnmi_enabled
    u8 secure_guest
    u8 svm_enabled
    u8 nested_enable
    u8 dawr1_enabled
    pointer pgtable
    u64 process_table
    pointer resize_hpt
    list_head spapr_tce_tables
    list_head rtas_tokens
    mutex rtas_token_lock
    u64 enabled_hcalls[5]
    pointer xics[6]
    pointer kvm_ops
    mutex uvmem_lock
    list_head uvmem_pfns
    mutex mmu_setup_lock
    u64 l1_ptcr
"""
_ARCH_WITH_IDR = """
    idr kvm_nested_guest_idr
    pointer vcores[256]
"""
_ARCH_WITH_ARRAY = """
    s32 max_nested_lpid
    pointer nested_guests[4096]
    pointer vcores[256]
"""

_KVM_WITH_SETS = """
struct kvm
    spinlock mmu_lock
    mutex slots_lock
    mutex slots_arch_lock
    pointer mm
    u64 nr_memslot_pages
    kvm_memslots __memslots[2]
    pointer memslots[1]
    xarray vcpu_array
    u64 invalidation[8]
    atomic_t online_vcpus
    s32 created_vcpus
    s32 last_boosted_vcpu
    list_head vm_list
    mutex lock
    u64 irqfds[20]
    kvm_arch arch
    atomic_t users_count
    pointer mmu_notifier[7]
    u64 mmu_invalidate_seq
    s64 mmu_invalidate_in_progress
"""
_KVM_WITH_POINTER = """
struct kvm
    spinlock mmu_lock
    mutex slots_lock
    pointer mm
    pointer memslots[1]
    pointer vcpus[2048]
    atomic_t online_vcpus
    s32 created_vcpus
    s32 last_boosted_vcpu
    list_head vm_list
    mutex lock
    u64 irqfds[20]
    kvm_arch arch
    atomic_t users_count
    pointer mmu_notifier[7]
    u64 mmu_notifier_seq
    s64 mmu_notifier_count
"""

_NESTED = """
struct kvm_nested_guest
    pointer l1_host
    s32 l1_lpid
    s32 shadow_lpid
    pointer shadow_pgtable
    u64 l1_gr_to_hr
    u64 process_table
    s64 refcnt
    mutex tlb_lock
    pointer next
    u64 need_tlb_flush[32]
    s16 prev_cpu[2048]
    u8 radix
"""

_VCPU = """
struct kvm_vcpu_arch
    u64 registers[96]
    pointer nested
    u32 nested_vcpu_id
    u64 nested_io_gpr
struct kvm_vcpu
    pointer kvm
    s32 cpu
    s32 vcpu_id
    s32 vcpu_idx
    mutex mutex
    pointer run
    kvm_vcpu_arch arch
"""

_ARCH_LPID_U64 = "struct kvm_arch\n    u64 lpid" + _ARCH_START
_ARCH_LPID_U32 = "struct kvm_arch\n    u32 lpid" + _ARCH_START

_NEWER = _XARRAY + _ARCH_SLOT + _SLOT_IN_TREES

PROFILES: dict[str, str] = {
    "6.12-like": f"{_COMMON}{_POWERPC_QSPINLOCK}{_SPINLOCK}{_NEWER}"
    f"{_ARCH_LPID_U64}{_ARCH_WITH_IDR}{_KVM_WITH_SETS}{_NESTED}{_VCPU}",
    "6.1-like": f"{_COMMON}{_GENERIC_QSPINLOCK}{_SPINLOCK}{_NEWER}"
    f"{_ARCH_LPID_U32}{_ARCH_WITH_IDR}{_KVM_WITH_SETS}{_NESTED}{_VCPU}",
    "5.10-like": f"{_COMMON}{_PLAIN_SPINLOCK}{_SPINLOCK}{_ARCH_SLOT}{_SLOTS_IN_ARRAY}"
    f"{_ARCH_LPID_U32}{_ARCH_WITH_ARRAY}{_KVM_WITH_POINTER}{_NESTED}{_VCPU}",
}
"""Layout text by the name of the family."""


def profile_types(name: str) -> Types:
    """Return the types of a family of kernels, one of PROFILES.

    Raises:
        ImageError: if there is no such profile.
    """
    if name not in PROFILES:
        raise ImageError(f"there is no layout profile {name!r}: use {', '.join(PROFILES)}")
    return Types([LayoutText(PROFILES[name])])


def completed(source: LayoutSource) -> Types:
    """Return the types of a stored profile, with those that only writing needs.

    A stored profile describes what is read; an image also needs the links of
    lists and trees, which are alike in all kernels.
    """
    return Types([source, LayoutText(_COMMON)])
