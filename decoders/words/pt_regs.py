"""`struct pt_regs`, the second argument of H_ENTER_NESTED (Linux, ptrace.h).

In the byte order of the guest that makes the call. `USER_PT_REGS` is the part
that never changed. The kernel copies its whole `struct pt_regs`, which ends
with four more doublewords (`__pad[4]`) whose use differs between kernels; a
guest must give it room for them.
"""

from typing import Final

from construct import Array, Construct, Int64ub, Int64ul, Struct

from .field import ByteOrder

_NAMES = (
    "nip",
    "msr",
    "orig_gpr3",
    "ctr",
    "link",
    "xer",
    "ccr",
    "softe",
    "trap",
    "dar",
    "dsisr",
    "result",
)


def _user(u64: "Construct[int, int]") -> Struct:
    return Struct("gpr" / Array(32, u64), *(name / u64 for name in _NAMES))


USER_PT_REGS: Final[dict[ByteOrder, Struct]] = {"little": _user(Int64ul), "big": _user(Int64ub)}
"""`struct user_pt_regs`: 44 doublewords, 352 bytes."""

PT_REGS: Final[dict[ByteOrder, Struct]] = {
    "little": Struct("user_regs" / USER_PT_REGS["little"], "pad" / Array(4, Int64ul)),
    "big": Struct("user_regs" / USER_PT_REGS["big"], "pad" / Array(4, Int64ub)),
}
"""The whole `struct pt_regs`: 384 bytes."""
