"""`struct hv_guest_state`, the first argument of H_ENTER_NESTED (Linux, hvcall.h).

In the byte order of the guest that makes the call. Version 1 ends after `ppr`;
version 2 adds `dawr1` and `dawrx1`. The kernel takes the length from the
version (`hv_guest_state_size`).
"""

from construct import (
    Array,
    Construct,
    Container,
    Int32ub,
    Int32ul,
    Int64sb,
    Int64sl,
    Int64ub,
    Int64ul,
    Struct,
)

from .field import ByteOrder, WordError

VERSIONS = (1, 2)

_BEFORE_OFFSET = ("lpcr", "pcr", "amor", "dpdes", "hfscr")
_AFTER_OFFSET = (
    "dawr0",
    "dawrx0",
    "ciabr",
    "hdec_expiry",
    "purr",
    "spurr",
    "ic",
    "vtb",
    "hdar",
    "hdsisr",
    "heir",
    "asdr",
    "srr0",
    "srr1",
)
_LAST_OF_VERSION_1 = ("pidr", "cfar", "ppr")
_ADDED_IN_VERSION_2 = ("dawr1", "dawrx1")


def _struct(version: int, order: ByteOrder) -> Struct:
    little = order == "little"
    u32: Construct[int, int] = Int32ul if little else Int32ub
    u64: Construct[int, int] = Int64ul if little else Int64ub
    s64: Construct[int, int] = Int64sl if little else Int64sb
    return Struct(
        "version" / u64,
        "lpid" / u32,
        "vcpu_token" / u32,
        *(name / u64 for name in _BEFORE_OFFSET),
        "tb_offset" / s64,
        *(name / u64 for name in _AFTER_OFFSET),
        "sprg" / Array(4, u64),
        *(name / u64 for name in _LAST_OF_VERSION_1),
        *(name / u64 for name in (_ADDED_IN_VERSION_2 if version >= 2 else ())),
    )


_ORDERS: tuple[ByteOrder, ...] = ("little", "big")
_STRUCTS = {(v, order): _struct(v, order) for v in VERSIONS for order in _ORDERS}


def hv_guest_state(version: int, order: ByteOrder) -> Struct:
    """Return the layout of a version in a byte order. It parses and builds.

    Raises:
        WordError: if there is no such version.
    """
    if version not in VERSIONS:
        raise WordError(
            f"hv_guest_state version {version:#x} is not known (1 and 2 are): "
            "check the address and the guest's byte order"
        )
    return _STRUCTS[version, order]


def hv_guest_state_size(version: int) -> int:
    """Return the length of a version, in bytes.

    Raises:
        WordError: if there is no such version.
    """
    return hv_guest_state(version, "big").sizeof()


def parse_hv_guest_state(data: bytes, order: ByteOrder) -> "Container[object]":
    """Parse `data` as the version that its first doubleword names.

    Raises:
        WordError: if there is no such version, or `data` is too short for it.
    """
    layout = hv_guest_state(int.from_bytes(data[:8], order), order)
    if len(data) < layout.sizeof():
        raise WordError(f"hv_guest_state needs {layout.sizeof()} bytes, there are {len(data)}")
    return layout.parse(data)
