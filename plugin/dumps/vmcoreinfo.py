"""The kernel's own VMCOREINFO, found in its memory.

`vmcoreinfo_data` points to the text, `vmcoreinfo_size` is its length
(kernel/vmcore_info.c; kernel/crash_core.c before 443cbaf9e2fd). Where the
symbols are not known, the text is searched: it starts a page of its own.
"""

from collections.abc import Iterator

from nestscope.decoders.errors import UnreadableMemoryError
from nestscope.decoders.kernel.kernel import Kernel
from nestscope.decoders.kernel.symbols import UnknownSymbolError
from nestscope.decoders.sources.elf_notes import Note
from nestscope.decoders.sources.protocol import Memory
from nestscope.decoders.sources.source_memory import SourceMemory

NOTE_NAME = "VMCOREINFO"
SCAN_BYTES = 4 << 30
_MAX_BYTES = 1 << 16  # VMCOREINFO_BYTES is PAGE_SIZE
_CHUNK = 4 << 20
_PAGE = 4096
_START = b"OSRELEASE="


def find_vmcoreinfo(
    kernel: Kernel, physical: Memory, scan_bytes: int | None = SCAN_BYTES
) -> Note | None:
    """Return the VMCOREINFO note, or None if this kernel has no such text or it is not there.

    At most `scan_bytes` of `physical` are searched (None: all of it).
    """
    data = _by_symbol(kernel)
    if data is None and isinstance(physical, SourceMemory):
        data = next(_search(kernel, physical, scan_bytes), None)
    return None if data is None else Note(NOTE_NAME, 0, data)


def _by_symbol(kernel: Kernel) -> bytes | None:
    try:
        text = kernel.memory.u64(kernel.symbol("vmcoreinfo_data").address)
        size = kernel.memory.u64(kernel.symbol("vmcoreinfo_size").address)
        if not text or not 0 < size <= _MAX_BYTES:
            return None
        data = kernel.memory.read(text, size)
    except (UnknownSymbolError, UnreadableMemoryError):
        return None
    return data if data.startswith(_START) else None


def _search(kernel: Kernel, physical: SourceMemory, scan_bytes: int | None) -> Iterator[bytes]:
    """Yield texts of this kernel's build that start a page.

    A guest's kernel has such a text too; one of another build is told by its symbol.
    """
    wanted = _START + kernel.release.encode() + b"\n"
    pgd = kernel.symbols.get("swapper_pg_dir")
    proof = b"SYMBOL(swapper_pg_dir)=%x\n" % (pgd.address if pgd else 0)
    left = scan_bytes
    for start, end in physical.ranges():
        for here in range(start, end, _CHUNK):
            size = min(_CHUNK, end - here)
            if left is not None:
                left -= size
                if left < 0:
                    return
            try:
                data = physical.read(here, size)
            except UnreadableMemoryError:
                continue
            at = data.find(wanted)
            while at >= 0:
                if (here + at) % _PAGE == 0:
                    text = data[at : at + _MAX_BYTES].split(b"\0")[0]
                    if proof in text:
                        yield text
                at = data.find(wanted, at + 1)
