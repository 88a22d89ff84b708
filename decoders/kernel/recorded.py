"""Make a profile: exactly what the readers ask of a kernel's types and symbols."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from nestscope.decoders.errors import NestscopeError, UnreadableMemoryError
from nestscope.decoders.kernel.byteorder import ByteOrder
from nestscope.decoders.kernel.knowledge import (
    NEEDED_MODULE_SYMBOLS,
    NEEDED_SYMBOLS,
    USEFUL_SYMBOLS,
    Knowledge,
)
from nestscope.decoders.kernel.memory import KernelMemory
from nestscope.decoders.kernel.memslots import MemslotReader
from nestscope.decoders.kernel.modules import ModuleReader
from nestscope.decoders.kernel.profile import Profile, ProfileError
from nestscope.decoders.kernel.types import (
    LayoutSource,
    Member,
    Struct,
    Types,
    UnknownTypeError,
)
from nestscope.decoders.kernel.vcpus import VcpuReader
from nestscope.decoders.kernel.vmm_memory import VmmReader
from nestscope.decoders.kernel.vms import VmReader


class RecordingTypes(Types):
    """Types that remember what was asked: structs, members found, members absent."""

    def __init__(self, sources: Iterable[LayoutSource]) -> None:
        super().__init__(list(sources))
        self.structs: dict[str, Struct] = {}
        self.paths: dict[str, set[str]] = {}
        self.absent: set[str] = set()

    def struct(self, name: str) -> Struct:
        """Return the layout of a struct, and remember that it was asked for."""
        try:
            found = super().struct(name)
        except UnknownTypeError:
            self.absent.add(name)
            raise
        self.structs[name] = found
        return found

    def member(self, struct: str, path: str) -> Member:
        """Return a member, and remember whether there is one."""
        try:
            found = super().member(struct, path)
        except UnknownTypeError:
            self.absent.add(f"{struct}.{path}")
            raise
        self.paths.setdefault(struct, set()).add(path)
        return found

    def asked(self) -> dict[str, Struct]:
        """Return the structs that were asked for, with only the members that were asked for."""
        return {
            name: _pruned(struct, self.paths.get(name, ())) for name, struct in self.structs.items()
        }


class _NoMemory:
    """Readers look up their layouts before they read."""

    def read(self, address: int, length: int) -> bytes:
        raise UnreadableMemoryError(address, length, "only layouts are looked up here")


def record(sources: Iterable[LayoutSource], byteorder: ByteOrder) -> RecordingTypes:
    """Make every reader that `read_state` and walks use, and return what they asked.

    Raises:
        UnknownTypeError: if a struct is missing that no reader can do without.
    """
    types = RecordingTypes(sources)
    memory = KernelMemory(_NoMemory(), 0, byteorder)
    VmReader(types, memory)
    VcpuReader(types, memory)
    MemslotReader(types, memory)
    ModuleReader(types, 0, memory)
    VmmReader(types, memory)
    return types


def make_profile(known: Knowledge, layouts: Iterable[LayoutSource] | None = None) -> Profile:
    """Return the profile of a kernel; `layouts` replaces the knowledge's own.

    Raises:
        ProfileError: if the kernel has no build id, or no type information.
        UnknownTypeError: if its types do not describe KVM's structures.
        UnknownSymbolError: if a symbol is missing that every kernel has.
    """
    if known.build_id is None or known.build_id_note is None:
        raise ProfileError(
            f"{known.name} has no build id, and a profile is found by it; "
            "link the kernel with --build-id"
        )
    sources = tuple(known.layouts if layouts is None else layouts)
    if not sources:
        raise ProfileError(
            f"{known.name} has no type information (BTF or DWARF); give its debug files (--debug)"
        )
    types = record(sources, known.byteorder)
    symbols = {name: known.symbols[name] for name in NEEDED_SYMBOLS}
    symbols |= {name: known.symbols[name] for name in USEFUL_SYMBOLS if name in known.symbols}
    return Profile(
        release=known.release,
        build_id=known.build_id,
        byteorder=known.byteorder,
        banner=known.banner,
        build_id_note=known.build_id_note,
        symbols={
            name: found._replace(local_entry=found.address) for name, found in symbols.items()
        },
        module_symbols=_module_symbols(known),
        structs=types.asked(),
        absent=frozenset(types.absent),
    )


def _module_symbols(known: Knowledge) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for module, names in NEEDED_MODULE_SYMBOLS.items():
        placed = known.module_symbols.get(module, {})
        found[module] = {name: placed[name] for name in names if name in placed}
    return {module: names for module, names in found.items() if names}


def unknown_to(profile: Profile) -> list[str]:
    """Return what the readers ask and the profile neither has nor knows to be absent.

    Such a profile was made for older readers and should be made again.
    """
    try:
        types = record([profile], profile.byteorder)
    except NestscopeError as error:
        return [str(error)]
    return sorted(types.absent - profile.absent)


def _pruned(struct: Struct, paths: Iterable[str]) -> Struct:
    """Return `struct` with only the members that `paths` lead through."""
    below: dict[str, list[str]] = {}
    for path in paths:
        first, _, rest = path.partition(".")
        below.setdefault(first.partition("[")[0], []).append(rest)
    members: Mapping[str, Member] = {
        name: _pruned_member(struct.members[name], [rest for rest in rests if rest])
        for name, rests in below.items()
    }
    return Struct(struct.name, struct.size, members)


def _pruned_member(member: Member, paths: list[str]) -> Member:
    if not paths or member.layout is None:
        return replace(member, layout=None)
    inner = _pruned(member.layout(), paths)
    return replace(member, layout=lambda: inner)
