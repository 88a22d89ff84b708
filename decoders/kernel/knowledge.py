"""What is known of a kernel before its structures are read, wherever it comes from.

From its files (`files.py`), a stored profile (`profile.py`), or the memory itself
(`in_memory.py`). `check_against` proves that the memory runs that very build.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace

from nestscope.decoders.errors import NestscopeError, UnreadableMemoryError
from nestscope.decoders.kernel.banner import find_banners
from nestscope.decoders.kernel.byteorder import ByteOrder
from nestscope.decoders.kernel.elf_image import find_build_id
from nestscope.decoders.kernel.memory import LINEAR_START
from nestscope.decoders.kernel.profile import Profile
from nestscope.decoders.kernel.symbols import Placed, SymbolTable
from nestscope.decoders.kernel.types import LayoutSource
from nestscope.decoders.sources.protocol import Memory

NEEDED_SYMBOLS = ("linux_banner", "swapper_pg_dir", "__pte_index_size", "modules")
USEFUL_SYMBOLS = ("partition_tb",)
"""Symbols that say more, where a kernel has them."""

NEEDED_MODULE_SYMBOLS: Mapping[str, tuple[str, ...]] = {
    "kvm": ("vm_list",),
    "kvm_hv": ("pseries_partition_tb",),
}
NOTE_BYTES = 64  # enough for one note with a build id


class KernelError(NestscopeError):
    """The memory does not run this kernel, or the kernel cannot be examined."""


@dataclass(frozen=True)
class Knowledge:
    """A kernel build: `name` is for messages, `banner` is `linux_banner` with its NUL.

    `build_id_note` is the virtual address of the ELF note that holds `build_id`.
    `module_symbols` are data symbols that the kernel itself may not keep
    (without CONFIG_KALLSYMS_ALL); `layouts` are asked in this order.
    """

    name: str
    release: str
    byteorder: ByteOrder
    banner: bytes
    build_id: bytes | None
    build_id_note: int | None
    symbols: SymbolTable
    layouts: tuple[LayoutSource, ...]
    module_symbols: Mapping[str, Mapping[str, Placed]] = field(default_factory=dict)
    module_build_ids: Mapping[str, bytes] = field(default_factory=dict)

    @classmethod
    def of_profile(cls, profile: Profile, name: str) -> "Knowledge":
        """Return what a profile says."""
        return cls(
            name=name,
            release=profile.release,
            byteorder=profile.byteorder,
            banner=profile.banner,
            build_id=profile.build_id,
            build_id_note=profile.build_id_note,
            symbols=SymbolTable.of_symbols(profile.symbols.values()),
            layouts=(profile,),
            module_symbols=profile.module_symbols,
        )


def in_place(memory: Memory, banner: bytes, address: int) -> bool:
    """Say whether `banner` is in memory at kernel address `address` of the linear map."""
    try:
        return memory.read(address - LINEAR_START, len(banner)) == banner
    except UnreadableMemoryError:
        return False


def check_against(memory: Memory, known: Knowledge) -> Knowledge:
    """Return `known` as it is in `memory`: moved, if the kernel runs relocated.

    Raises:
        KernelError: if the memory runs another kernel, or another build of it;
            both are named.
        UnreadableMemoryError: if the kernel's own image cannot be read.
        UnknownSymbolError: if `linux_banner` is not known.
    """
    link = known.symbols["linux_banner"].address
    moved = known
    if not in_place(memory, known.banner, link):
        moved = _relocated(memory, known, link)
    if moved.build_id is not None:
        found = _build_id_in(memory, moved)
        if found is not None and found != moved.build_id:
            raise KernelError(
                f"the memory runs build {found.hex()}, but {known.name} is build "
                f"{moved.build_id.hex()}; give the files of the running kernel"
            )
    return moved


def _build_id_in(memory: Memory, known: Knowledge) -> bytes | None:
    """Return the build id that the memory has where `known` says, or None.

    Raises:
        UnreadableMemoryError: if that place cannot be read.
    """
    if known.build_id_note is None:
        return None
    data = memory.read(known.build_id_note - LINEAR_START, NOTE_BYTES)
    return find_build_id(data, known.byteorder)


def _relocated(memory: Memory, known: Knowledge, link: int) -> Knowledge:
    """Return `known` at the place where the memory has its banner.

    A relocated kernel (a crash kernel) keeps the linear map: its addresses grow
    by as much as its physical place.
    """
    others: list[bytes] = []
    for banner in find_banners(memory):
        if banner.text == known.banner and known.build_id_note is not None:
            distance = (banner.address | LINEAR_START) - link
            moved = replace(
                known,
                symbols=known.symbols.shifted(distance),
                build_id_note=known.build_id_note + distance,
            )
            # A file in the page cache has the text as well, but its pages are scattered.
            with suppress(UnreadableMemoryError):
                if _build_id_in(memory, moved) == known.build_id:
                    return moved
        others.append(banner.text)
    found = others[0] if others else memory.read(link - LINEAR_START, len(known.banner))
    raise KernelError(
        f"the memory does not run {known.name}: it holds {line(found)} where that kernel "
        f"has {line(known.banner)}; give the files of the running kernel"
    )


def line(banner: bytes) -> str:
    """Return the start of a banner, printable."""
    text = banner.split(b"\0")[0].decode("ascii", "replace").strip()
    return repr(text[:120]) if text.isprintable() and text else "no banner"
