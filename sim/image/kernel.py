"""The `Kernel` of an image: what `open_kernel` finds out of a vmlinux, given directly."""

from dataclasses import dataclass

import numpy as np

from nestscope.decoders.kernel.byteorder import ByteOrder, prefix
from nestscope.decoders.kernel.kernel import Kernel
from nestscope.decoders.kernel.memory import KernelMemory
from nestscope.decoders.kernel.symbols import SymbolTable
from nestscope.decoders.kernel.types import Types
from nestscope.decoders.sources.protocol import Memory
from nestscope.sim.image.arena import linear

_SYM = [
    ("name", "u4"),
    ("info", "u1"),
    ("other", "u1"),
    ("shndx", "u2"),
    ("value", "u8"),
    ("size", "u8"),
]
_GLOBAL_OBJECT = 0x11
_ABSOLUTE = 0xFFF1
_POINTER_BYTES = 8


@dataclass(frozen=True)
class ImageKernel:
    """The few facts that lead into an image.

    `pgd` is the physical address of the kernel's page directory, `vm_list` the
    kernel address of that symbol, `partition_tb` that of the pointer; `page_shift`
    is log2 of the base page size.
    """

    release: str
    page_shift: int
    byteorder: ByteOrder
    pgd: int
    vm_list: int
    partition_tb: int

    def open(self, physical: Memory, types: Types) -> Kernel:
        """Return the kernel as it runs in `physical`, with structures of `types`."""
        return Kernel(
            release=self.release,
            page_shift=self.page_shift,
            byteorder=self.byteorder,
            symbols=self._symbols(
                {"swapper_pg_dir": linear(self.pgd), "partition_tb": self.partition_tb}
            ),
            types=types,
            memory=KernelMemory(physical, self.pgd, self.byteorder),
            module_symbols={"kvm": self._symbols({"vm_list": self.vm_list})},
        )

    def _symbols(self, addresses: dict[str, int]) -> SymbolTable:
        strings = b"\0" + b"".join(name.encode() + b"\0" for name in addresses)
        rows = [
            (strings.index(name.encode()), _GLOBAL_OBJECT, 0, _ABSOLUTE, at, 2 * _POINTER_BYTES)
            for name, at in addresses.items()
        ]
        row = np.dtype(_SYM).newbyteorder(prefix(self.byteorder))
        return SymbolTable(np.array(rows, row).tobytes(), strings, self.byteorder)
