"""Rewrite a dump so that drgn, crash and libkdumpfile open it.

QEMU writes the headers in the byte order that the vCPU takes interrupts in, not
in the kernel's, and knows nothing of VMCOREINFO.
"""

from pathlib import Path

from nestscope.decoders.errors import NestscopeError, UnreadableMemoryError
from nestscope.decoders.kernel.kernel import Kernel
from nestscope.decoders.sources.source_memory import SourceMemory
from nestscope.plugin.dumps.elf_writer import Order, write_core
from nestscope.plugin.dumps.vmcoreinfo import find_vmcoreinfo
from nestscope.plugin.output import new_file

_GRAIN = 4096


def convert(memory: SourceMemory, kernel: Kernel, path: Path) -> tuple[int, int]:
    """Write all of `memory` to `path` as an ELF core; zeros become holes.

    Pages of a packed dump that turn out to be damaged are written as zeros.

    Returns:
        the bytes of memory written, and how many of them could not be read.

    Raises:
        NestscopeError: if the kernel keeps no VMCOREINFO, or the file cannot be written.
    """
    vmcoreinfo = find_vmcoreinfo(kernel, memory, scan_bytes=None)
    if vmcoreinfo is None:
        raise NestscopeError(
            f"kernel {kernel.release} holds no VMCOREINFO that can be found, and drgn needs it; "
            "give --vmlinux, unless the kernel was built without CONFIG_VMCORE_INFO"
        )
    missing = 0

    def read(address: int, length: int) -> bytes:
        nonlocal missing
        try:
            return memory.read(address, length)
        except UnreadableMemoryError:
            if length <= _GRAIN:
                missing += length
                return bytes(length)
        half = max(length // 2 // _GRAIN * _GRAIN, _GRAIN)
        return read(address, half) + read(address + half, length - half)

    ranges = memory.ranges()
    order: Order = "<" if kernel.byteorder == "little" else ">"
    with new_file(path) as file:
        # The notes of the source are in its own byte order, so they stay behind.
        write_core(file, order, [vmcoreinfo], ranges, read)
    return sum(end - start for start, end in ranges), missing
