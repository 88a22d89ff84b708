"""Stored knowledge of one kernel build: what the readers need of its types and symbols.

A profile is a small JSON file, made once from the kernel's debug information
(`recorded.py`) and keyed by the build id. Addresses are strings ("0x..."),
sizes and offsets numbers of bytes:

    {"schema": "nestscope.profile/1", "release": "6.1.0-...", "build_id": "e047...",
     "byteorder": "little", "banner": "Linux version ...", "build_id_note": "0xc0...",
     "symbols": {"modules": {"address": "0xc0...", "size": 16}, ...},
     "module_symbols": {"kvm": {"vm_list": {"section": ".data", "offset": 8, "size": 16}}},
     "structs": {"kvm": {"size": 20616, "members": {"lpid": {"offset": 4, ...}}}}}

A member that is a struct has its own members below it; `absent` lists what was
asked for and this kernel does not have.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast, get_args

from nestscope.decoders.errors import NestscopeError
from nestscope.decoders.kernel.byteorder import ByteOrder
from nestscope.decoders.kernel.symbols import Placed, Symbol
from nestscope.decoders.kernel.types import Kind, Member, Struct

SCHEMA = "nestscope.profile/1"
MAX_BYTES = 4 << 20
MAX_DEPTH = 32
_MAX_NUMBER = (1 << 64) - 1


class ProfileError(NestscopeError):
    """A profile that is damaged, or not of the kernel at hand."""


@dataclass(frozen=True)
class Profile:
    """A profile. Satisfies `LayoutSource`.

    `banner` is the kernel's `linux_banner` with its NUL; `build_id_note` the
    link address of the ELF note with the build id, `build_id` its bytes.
    """

    release: str
    build_id: bytes
    byteorder: ByteOrder
    banner: bytes
    build_id_note: int
    symbols: Mapping[str, Symbol]
    module_symbols: Mapping[str, Mapping[str, Placed]]
    structs: Mapping[str, Struct]
    absent: frozenset[str] = field(default_factory=frozenset)

    def find(self, name: str) -> Struct | None:
        """Return the struct called `name`, or None."""
        return self.structs.get(name)

    def to_json(self) -> str:
        """Return the profile as JSON text, ending in a newline."""
        document = {
            "schema": SCHEMA,
            "release": self.release,
            "build_id": self.build_id.hex(),
            "byteorder": self.byteorder,
            "banner": self.banner.rstrip(b"\0").decode("ascii", "backslashreplace"),
            "build_id_note": hex(self.build_id_note),
            "symbols": {
                name: {"address": hex(symbol.address), "size": symbol.size}
                for name, symbol in sorted(self.symbols.items())
            },
            "module_symbols": {
                module: {name: placed._asdict() for name, placed in sorted(names.items())}
                for module, names in sorted(self.module_symbols.items())
            },
            "structs": {name: _struct_json(of) for name, of in sorted(self.structs.items())},
            "absent": sorted(self.absent),
        }
        return json.dumps(document, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, name: str) -> "Profile":
        """Read a profile; `name` is for messages.

        Raises:
            ProfileError: if it is no profile, or damaged.
        """
        if len(text) > MAX_BYTES:
            raise ProfileError(f"{name} is no profile: it has {len(text)} bytes")
        try:
            document = json.loads(text)
            if not isinstance(document, dict) or document.get("schema") != SCHEMA:
                raise ProfileError(
                    f"{name} is no profile of schema {SCHEMA}; "
                    "make one with `nestscope profile make`"
                )
            return _profile(document)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            why = f"{type(error).__name__}: {error}"
            raise ProfileError(
                f"{name} is damaged ({why}); make it again with `nestscope profile make`"
            ) from error

    @classmethod
    def open(cls, path: Path) -> "Profile":
        """Read the profile at `path`.

        Raises:
            ProfileError: if it cannot be read, is no profile, or is damaged.
        """
        try:
            if not path.is_file() or path.stat().st_size > MAX_BYTES:
                raise ProfileError(
                    f"{path} is no profile; give one made by `nestscope profile make`"
                )
            return cls.from_json(path.read_bytes(), str(path))
        except OSError as error:
            raise ProfileError(f"{path} cannot be read: {error.strerror}") from error


def _struct_json(struct: Struct) -> dict[str, Any]:
    return {
        "size": struct.size,
        "members": {
            name: _member_json(member)
            for name, member in sorted(struct.members.items(), key=lambda item: item[1].offset)
        },
    }


def _member_json(member: Member) -> dict[str, Any]:
    row: dict[str, Any] = {"offset": member.offset, "size": member.size, "kind": member.kind}
    if member.signed:
        row["signed"] = True
    if member.dims:
        row["dims"] = list(member.dims)
        row["element_size"] = member.element_size
    if member.bits:
        row["bits"] = list(member.bits)
    if member.layout is not None:
        row["struct"] = _struct_json(member.layout())
    return row


def _profile(document: Mapping[str, Any]) -> Profile:
    byteorder = document["byteorder"]
    if byteorder not in ("little", "big"):
        raise ValueError(f"byteorder is {byteorder!r}")
    return Profile(
        release=str(document["release"]),
        build_id=bytes.fromhex(document["build_id"]),
        byteorder=cast(ByteOrder, byteorder),
        banner=document["banner"].encode("ascii") + b"\0",
        build_id_note=_address(document["build_id_note"]),
        symbols={
            name: _symbol(name, row["address"], row["size"])
            for name, row in document["symbols"].items()
        },
        module_symbols={
            module: {
                name: Placed(str(row["section"]), _number(row["offset"]), _number(row["size"]))
                for name, row in names.items()
            }
            for module, names in document["module_symbols"].items()
        },
        structs={name: _struct(name, row, 0) for name, row in document["structs"].items()},
        absent=frozenset(str(path) for path in document["absent"]),
    )


def _symbol(name: str, address: str, size: int) -> Symbol:
    where = _address(address)
    return Symbol(name, where, _number(size), where)


def _address(text: str) -> int:
    return _number(int(text, 16))


def _number(value: int) -> int:
    if not isinstance(value, int) or not 0 <= value <= _MAX_NUMBER:
        raise ValueError(f"{value!r} is no size, offset or address")
    return value


def _struct(name: str, row: Mapping[str, Any], depth: int) -> Struct:
    if depth > MAX_DEPTH:
        raise ValueError("its structs nest too deeply")
    members = {key: _member(key, value, depth) for key, value in row["members"].items()}
    return Struct(name, _number(row["size"]), members)


def _member(name: str, row: Mapping[str, Any], depth: int) -> Member:
    kind = row["kind"]
    if kind not in get_args(Kind):
        raise ValueError(f"{name} has the kind {kind!r}")
    size = _number(row["size"])
    inner = _struct("", row["struct"], depth + 1) if "struct" in row else None
    bits = row.get("bits")
    return Member(
        name=name,
        offset=_number(row["offset"]),
        size=size,
        kind=kind,
        signed=bool(row.get("signed")),
        element_size=_number(row.get("element_size", size)),
        dims=tuple(_number(dim) for dim in row.get("dims", ())),
        bits=None if bits is None else (_number(bits[0]), _number(bits[1])),
        layout=None if inner is None else lambda: inner,
    )
