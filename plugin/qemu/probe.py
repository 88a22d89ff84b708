"""Ask the machine how it behaves, instead of its version."""

from dataclasses import dataclass

from nestscope.decoders.words.pate import make_dw0
from nestscope.decoders.words.pde import make_pde
from nestscope.decoders.words.pte import (
    PTE_C,
    PTE_EAA_EXECUTE,
    PTE_EAA_READ,
    PTE_EAA_WRITE,
    PTE_LEAF,
    PTE_R,
)
from nestscope.plugin.qemu.channel import Agent
from nestscope.plugin.qemu.errors import LabError

# Guest real addresses of a small guest of our own. Leaves are 2 MiB, so the
# probe is the same for every base page size.
_STUB, _MAILBOX, _STATE, _PARTITION_TABLE = 0x10000, 0x20000, 0x30000, 0x40000
_ROOT, _LEVEL1, _LEVEL2 = 0x50000, 0x60000, 0x70000
_PAGE, _MEMORY = 0x200000, 0x400000
_NESTED_PAGE = 0
_DATA = 0x100000
_H_SET_PARTITION_TABLE, _H_TLB_INVALIDATE = 0xF800, 0xF808
_H_PARAMETER = -4 & (1 << 64) - 1
_NO_SUCH_GUEST = 0x99
_TLBIE = 1 << 16
_AP_SHIFTS = {0: 12, 5: 16, 1: 21, 2: 30}
_TRAP_SYSCALL, _TRAP_STORAGE = 0xC00, 0xE00
_SRR1_LEV = 3 << 20


def _write(address: int, word: int) -> str:
    return f"write {address:#x} {word.to_bytes(8, 'big').hex()}"


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How machine and kernel behave where both ways are right.

    `sets_rc`: the machine writes R and C into a leaf itself. `shows_level`: SRR1 of a
    nested guest's system call comes with its LEV. `tlbie_shifts`: log2 of the page sizes
    that the kernel accepts in a tlbie.
    """

    sets_rc: bool
    shows_level: bool
    tlbie_shifts: frozenset[int]


def observe_behaviour(agent: Agent) -> Behaviour:
    """Return how the machine behaves.

    R and C: the ISA permits a machine to set them; POWER9 and newer QEMU interrupt
    instead. The guest's leaf grants a store but has C clear: a machine that
    interrupts makes KVM return the store to the guest (trap 0xe00), one that sets C
    in the shadow leaf does not. LEV: the nested guest ends its load with `sc 1`. Page
    sizes: a tlbie for a nested guest that does not exist succeeds, unless the kernel does not
    know the AP encoding (`ap_to_shift`).

    It uses the agent's VM, so there must be none; afterwards there is none again.

    Raises:
        LabError: if there is a VM, or the nested guest ends in another way.
    """
    leaf = PTE_LEAF | PTE_R | PTE_EAA_READ | PTE_EAA_WRITE | PTE_EAA_EXECUTE | _PAGE
    assert not leaf & PTE_C
    tlbies = [
        f"hcall {_H_TLB_INVALIDATE:#x} {_TLBIE:#x} {_NO_SUCH_GUEST:#x} {ap << 5:#x}"
        for ap in _AP_SHIFTS
    ]
    agent.must(["vm", f"slot 0 0 {_MEMORY:#x} 0"])
    try:
        *_, load, store = agent.must(
            [
                "vcpu",
                f"stub {_STUB:#x} {_MAILBOX:#x}",
                f"payload {_PAGE:#x}",
                _write(_PARTITION_TABLE + 16, make_dw0(_ROOT, 13)),
                _write(_ROOT, make_pde(_LEVEL1, 9)),
                _write(_LEVEL1, make_pde(_LEVEL2, 9)),
                _write(_LEVEL2, leaf),
                f"hcall {_H_SET_PARTITION_TABLE:#x} {_PARTITION_TABLE:#x}",
                f"enter 1 0 {_NESTED_PAGE + _DATA:#x} 0 0 {_STATE:#x}",
                f"enter 1 0 {_NESTED_PAGE + _DATA:#x} 1 1 {_STATE:#x}",
            ]
        )
        answers = agent.must(tlbies)
    finally:
        agent.run(["destroy"])
    if store["ret"] not in {_TRAP_SYSCALL, _TRAP_STORAGE}:
        raise LabError(
            f"a store of a nested guest ended with {store['ret']:#x}: this kernel cannot run "
            "nested guests, use another"
        )
    shifts = zip(_AP_SHIFTS.values(), answers, strict=True)
    return Behaviour(
        sets_rc=store["ret"] == _TRAP_SYSCALL,
        shows_level=bool(load["msr"] & _SRR1_LEV),
        tlbie_shifts=frozenset(shift for shift, reply in shifts if reply["ret"] != _H_PARAMETER),
    )
