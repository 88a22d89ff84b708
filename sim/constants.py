"""Values that the model shares with the kernel and the ISA, in one place to import from.

Words are specified in `decoders.words`. DSISR bits: `asm/reg.h`. Hypercalls:
`asm/hvcall.h`. Slots: `linux/kvm_host.h`.
"""

from typing import Final

from nestscope.decoders.words.pte import PTE_EAA_EXECUTE, PTE_EAA_READ, PTE_EAA_WRITE

U64: Final = (1 << 64) - 1
EFFECTIVE_BITS: Final = (1 << 52) - 1
"""The tree translates 52 bits; `pgd_index()` drops the ones above."""

EAA_RWX: Final = PTE_EAA_READ | PTE_EAA_WRITE | PTE_EAA_EXECUTE

PMD_SHIFT: Final = 21
PUD_SHIFT: Final = 30
PGDIR_SHIFT: Final = 39

# HDSISR; SRR1 of an H instruction storage interrupt carries the same bits.
DSISR_NOHPTE: Final = 0x4000_0000
DSISR_NOEXEC_OR_G: Final = 0x1000_0000
DSISR_PROTFAULT: Final = 0x0800_0000
DSISR_BADACCESS: Final = 0x0400_0000
DSISR_ISSTORE: Final = 0x0200_0000
DSISR_UNSUPP_MMU: Final = 0x0008_0000
DSISR_SET_RC: Final = 0x0004_0000
DSISR_PRTABLE_FAULT: Final = 0x0002_0000
DSISR_BAD_COPYPASTE: Final = 0x0000_0008
DSISR_BAD_FAULT_64S: Final = 0xA41A_400E
"""`DSISR_BAD_FAULT_64S`: faults that setting R and C does not cure."""

TRAP_HDEC: Final = 0x980
TRAP_HDSI: Final = 0xE00
TRAP_HISI: Final = 0xE20
TRAP_HEAI: Final = 0xE40
TRAP_SYSCALL: Final = 0xC00

H_SUCCESS: Final = 0
H_NOT_AVAILABLE: Final = 3
H_FUNCTION: Final = -2 & U64
H_PARAMETER: Final = -4 & U64
H_BAD_MODE: Final = -5 & U64
H_AUTHORITY: Final = -10 & U64
H_P2: Final = -55 & U64
H_P4: Final = -57 & U64
H_P5: Final = -58 & U64
H_UNSUPPORTED: Final = -67 & U64
H_RPT_INVALIDATE: Final = 0x448
H_SET_PARTITION_TABLE: Final = 0xF800
H_ENTER_NESTED: Final = 0xF804
H_TLB_INVALIDATE: Final = 0xF808

MSR_HV: Final = 1 << 60
MSR_TS_MASK: Final = 3 << 33
MSR_ME: Final = 1 << 12
SRR1_LEV_1: Final = 1 << 20
"""LEV of `sc 1` in SRR1 bits 42:43, after a system call (Power ISA 3.1)."""
NR_CPUS: Final = 2048
"""CONFIG_NR_CPUS of Debian's kernels: a `vcpu_token` is less."""

EAGAIN: Final = 11
ENOMEM: Final = 12
EFAULT: Final = 14
EEXIST: Final = 17
EINVAL: Final = 22
ERANGE: Final = 34
ENOENT: Final = 2
ENOTTY: Final = 25

RESUME_GUEST: Final = 0
RESUME_HOST: Final = 2

KVM_MAX_NESTED_GUESTS_SHIFT: Final = 12
EOPNOTSUPP = 95
PPC_MIN_HPT_ORDER, PPC_MAX_HPT_ORDER = 18, 46
KVM_MEM_MAX_NR_PAGES = (1 << 31) - 1
KVM_USER_MEM_SLOTS: Final = 32767  # SHRT_MAX, no internal slots on POWER
KVM_MEM_LOG_DIRTY_PAGES: Final = 1
KVM_MEM_READONLY: Final = 2
KVM_MEMSLOT_INVALID: Final = 1 << 16
