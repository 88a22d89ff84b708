"""`hv_guest_state` and `pt_regs` as H_ENTER_NESTED finds and leaves them in guest memory."""

import struct
from typing import Final, NamedTuple

from nestscope.decoders.words.hv_guest_state import hv_guest_state
from nestscope.decoders.words.pt_regs import PT_REGS
from nestscope.sim.nested_cpu import NESTED_MSR, NestedCpu

UNKNOWN: Final = bytes.fromhex("d1e5a50f") * 2
"""Stands in the model's memory for a doubleword that only the machine knows (a time)."""

VERSION: Final = 2
LPCR_ILE: Final = 1 << 25
STATE_SIZE: Final = hv_guest_state(VERSION, "little").sizeof()
STATE_SIZES: Final = {1: hv_guest_state(1, "little").sizeof(), VERSION: STATE_SIZE}
REGS_SIZE: Final = PT_REGS["little"].sizeof()
AGENT_REGS_SIZE: Final = 352
"""What the agent clears: `struct user_pt_regs`."""

_WORD = struct.Struct("<Q")
_NAMES = [sub.name for sub in hv_guest_state(VERSION, "little").subcons]
_SIZES = [sub.sizeof() for sub in hv_guest_state(VERSION, "little").subcons]
_OFFSETS = dict(zip(_NAMES, (sum(_SIZES[:i]) for i in range(len(_SIZES))), strict=True))
_SAVED = (
    *("dpdes", "purr", "spurr", "ic", "vtb", "srr0", "srr1", "sprg", "pidr", "cfar", "ppr"),
    *("hdar", "hdsisr", "asdr", "heir", "hfscr"),
)
LPID_AT = _OFFSETS["lpid"]
HDEC_AT = _OFFSETS["hdec_expiry"]
R3_AT, NIP_AT, MSR_AT, _CTR, _LINK = 3 * 8, 32 * 8, 33 * 8, 35 * 8, 36 * 8
"""Offsets in bytes, those above in `hv_guest_state`, these in `pt_regs`."""


class Entry(NamedTuple):
    """What the kernel takes from both: `hdec_expiry` None if only the machine knows it."""

    version: int
    lpid: int
    vcpu_token: int
    hdec_expiry: int | None
    msr: int
    cpu: NestedCpu


def prepared_state(l1_lpid: int) -> bytes:
    """Return `hv_guest_state` as the VMM writes it before an access."""
    state = bytearray(STATE_SIZE)
    state[:16] = struct.pack("<QII", VERSION, l1_lpid & 0xFFFF_FFFF, 0)
    _WORD.pack_into(state, _OFFSETS["lpcr"], LPCR_ILE)
    state[HDEC_AT : HDEC_AT + 8] = UNKNOWN
    return bytes(state)


def prepared_regs(r3: int, r4: int, r5: int) -> bytes:
    """Return `pt_regs` as the VMM writes them before an access."""
    regs = bytearray(AGENT_REGS_SIZE)
    struct.pack_into("<3Q", regs, 3 * 8, r3, r4, r5)
    _WORD.pack_into(regs, MSR_AT, NESTED_MSR)
    return bytes(regs)


def read_entry(state: bytes, regs: bytes) -> Entry:
    """Take both apart."""
    version, lpid, token = struct.unpack_from("<QII", state)
    hdec = state[HDEC_AT : HDEC_AT + 8]
    cpu = NestedCpu(gpr=list(struct.unpack_from("<32Q", regs)))
    cpu.nip, msr = struct.unpack_from("<2Q", regs, NIP_AT)
    cpu.ctr, cpu.lr = struct.unpack_from("<2Q", regs, _CTR)
    known = None if hdec == UNKNOWN else _WORD.unpack(hdec)[0]
    return Entry(version, lpid, token, known, msr, cpu)


def left_state(state: bytes) -> bytes:
    """Return `hv_guest_state` as the kernel writes it back.

    What `save_hv_return_state` sets are times, registers, and the cause of the exit; all
    else stays as the guest gave it.
    """
    left = bytearray(state)
    for name in _SAVED:
        at, size = _OFFSETS[name], _SIZES[_NAMES.index(name)]
        if at < len(state):
            left[at : at + size] = UNKNOWN * (size // 8)
    return bytes(left)


def left_regs(cpu: NestedCpu) -> bytes:
    """Return `pt_regs` as the kernel writes them back."""
    regs = bytearray(UNKNOWN * (REGS_SIZE // 8))
    struct.pack_into("<32Q", regs, 0, *cpu.gpr)
    _WORD.pack_into(regs, NIP_AT, cpu.nip & (1 << 64) - 1)
    if cpu.msr is not None:
        _WORD.pack_into(regs, MSR_AT, cpu.msr)
    struct.pack_into("<2Q", regs, _CTR, cpu.ctr, cpu.lr)
    return bytes(regs)
