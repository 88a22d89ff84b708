"""What a kernel's own memory says of it: no file is needed.

The banner leads to kallsyms, kallsyms to everything else: the kernel's BTF
(CONFIG_DEBUG_INFO_BTF), and `btf_modules`, its list of the modules' BTF
(kernel/bpf/btf.c). Without CONFIG_KALLSYMS_ALL kallsyms has functions only.
"""

from collections.abc import Iterator
from itertools import islice

from nestscope.decoders.errors import NestscopeError, UnreadableMemoryError
from nestscope.decoders.kernel.banner import (
    Banner,
    available,
    banner_at,
    find_banners,
    find_build_id_after,
    joined,
)
from nestscope.decoders.kernel.btf import MAX_BYTES, Btf
from nestscope.decoders.kernel.byteorder import ByteOrder
from nestscope.decoders.kernel.kallsyms import find_kallsyms
from nestscope.decoders.kernel.knowledge import NEEDED_SYMBOLS, KernelError, Knowledge
from nestscope.decoders.kernel.lists import list_entries
from nestscope.decoders.kernel.memory import LINEAR_START, KernelMemory
from nestscope.decoders.kernel.record import Record
from nestscope.decoders.kernel.symbols import Symbol, SymbolTable
from nestscope.decoders.kernel.types import Types
from nestscope.decoders.sources.protocol import Memory

KALLSYMS_WINDOW = 8 << 20
MAX_TRIED = 6  # banners; the search for a symbol table is what hostile memory makes dear
MAX_KERNEL = 64 << 20  # from its start to the end of .rodata
MAX_MODULES = 4096
_GIVE = "give its image with --vmlinux FILE, or a profile with --profile FILE"


def knowledge_in_memory(memory: Memory) -> Knowledge:
    """Find the running kernel in `memory`, with its symbols and types.

    Reads at most the first 256 MiB for the banner, and some 30 MiB around it.

    Raises:
        KernelError: if there is no kernel, or it does not carry what is needed;
            the text says which, and what to give.
        BtfError: if its BTF is damaged.
    """
    seen: list[Banner] = []
    for banner in islice(find_banners(memory), MAX_TRIED):
        seen.append(banner)
        found = _symbols(memory, banner)
        if found is None:
            continue
        symbols, order, banner = found  # noqa: PLW2901 - the running one
        missing = [name for name in NEEDED_SYMBOLS if name not in symbols]
        note = find_build_id_after(memory, banner.address)
        build = f"build {note[1].hex()}" if note else "no build id"
        what = f"the memory runs kernel {banner.release} ({build})"
        if missing:
            raise KernelError(
                f"{what}, whose own symbol table lacks {missing[0]} "
                f"(no CONFIG_KALLSYMS_ALL); {_GIVE}"
            )
        return Knowledge(
            name=f"kernel {banner.release}",
            release=banner.release,
            byteorder=order,
            banner=banner.text,
            build_id=note[1] if note else None,
            build_id_note=note[2] | LINEAR_START if note else None,
            symbols=SymbolTable.of_symbols(symbols.values()),
            layouts=(_vmlinux_btf(memory, symbols, what),),
        )
    if seen:
        raise KernelError(
            f"the memory holds the banner of kernel {seen[0].release} at {seen[0].address:#x}, "
            f"but no symbol table of a kernel that runs there; {_GIVE}"
        )
    raise KernelError(f"the memory holds no Linux kernel that can be recognised; {_GIVE}")


def _symbols(memory: Memory, banner: Banner) -> tuple[dict[str, Symbol], ByteOrder, Banner] | None:
    """Return symbols, byte order and proper banner of a kernel that runs near `banner`.

    A kernel has more than one text like its banner. A guest's kernel or a file in
    the page cache has kallsyms as well, but for addresses where it is not.
    """
    here = banner.address & ~7
    # In all kernels that were seen the tables follow the banner.
    before = max(here - KALLSYMS_WINDOW, 0)
    for start, length in ((here, KALLSYMS_WINDOW), (before, here - before)):
        for at, data in joined(available(memory, start, length)):
            orders: tuple[ByteOrder, ...] = ("little", "big")
            for order in orders:
                found = find_kallsyms(data, at | LINEAR_START, order)
                running = _running(memory, found, banner) if found is not None else None
                if found is not None and running is not None:
                    return found, order, running
    return None


def _running(memory: Memory, symbols: dict[str, Symbol], banner: Banner) -> Banner | None:
    """Return the banner of the kernel with these symbols, if it is where they say."""
    own = symbols.get("linux_banner")
    if own is not None:
        found = banner_at(memory, own.address - LINEAR_START)
        near = abs(own.address - (banner.address | LINEAR_START)) < MAX_KERNEL
        return found if near and found and found.release == banner.release else None
    # Without data symbols: the kernel starts below its banner.
    text = symbols.get("_text") or symbols.get("_stext")
    if text is None or not 0 < (banner.address | LINEAR_START) - text.address < MAX_KERNEL:
        return None
    return banner


def _vmlinux_btf(memory: Memory, symbols: dict[str, Symbol], what: str) -> Btf:
    start, stop = symbols.get("__start_BTF"), symbols.get("__stop_BTF")
    if start is None or stop is None or not 0 < stop.address - start.address <= MAX_BYTES:
        raise KernelError(f"{what}, which carries no type information (BTF); {_GIVE}")
    try:
        data = memory.read(start.address - LINEAR_START, stop.address - start.address)
    except UnreadableMemoryError as error:
        raise KernelError(f"{what}, but its BTF cannot be read: {error}; {_GIVE}") from error
    return Btf(data, "the kernel in memory")


def module_btf(
    types: Types, memory: KernelMemory, head: int, base: Btf
) -> Iterator[tuple[int, Btf]]:
    """Yield `(struct module's address, types)` of every module on the list `btf_modules`.

    Raises:
        ListError, UnreadableMemoryError: if the list is broken.
        BtfError: if a module's BTF is damaged.
        UnknownTypeError, LayoutError: if the kernel keeps them in another form.
    """
    order = memory.byteorder
    row = Record(types, "btf_module", ["module", "btf"], order)
    body = Record(types, "btf", ["data", "data_size"], order)
    link = types.offset("btf_module", "list")
    for address in list_entries(memory, head, link, MAX_MODULES):
        module, btf = row.read_numbers(memory, address)
        data, size = body.read_numbers(memory, btf)
        if size > MAX_BYTES:
            raise NestscopeError(f"the BTF of the module at {module:#x} claims {size} bytes")
        yield module, Btf(memory.read(data, size), f"the module at {module:#x}", base)
