"""Reading the nodes of a chain: they are small, and lie on few pages."""

from nestscope.decoders.kernel.memory import KernelMemory
from nestscope.decoders.sources.protocol import Memory
from nestscope.plugin.gdb.worker.live_memory import LiveMemory
from nestscope.plugin.mi.pages import PAGE

SLAB = 64 << 10
"""Bytes that are fetched together from the second node on.

`struct rmap_nested` comes from the slab of 16 bytes, which hands its objects out in
random order (CONFIG_SLAB_FREELIST_RANDOM): the nodes of a chain lie scattered over
slabs of one page, 64 KiB of them in a kernel with such pages.
"""


class NodeMemory:
    """Kernel memory for one chain. Satisfies `Memory`."""

    def __init__(self, memory: KernelMemory, physical: Memory) -> None:
        self._memory = memory
        self._live = physical if isinstance(physical, LiveMemory) else None
        self._misses = 0

    def read(self, address: int, length: int) -> bytes:
        """Return `length` bytes at kernel `address`.

        Raises:
            UnreadableMemoryError: if they cannot be read.
        """
        if self._live is not None:
            self._fetch(self._live, self._memory.translate(address))
        return self._memory.read(address, length)

    def _fetch(self, live: LiveMemory, address: int) -> None:
        if live.has(address):
            return
        self._misses += 1
        if self._misses > 1:
            block = address // SLAB * SLAB
            if any(block in ram and block + SLAB - 1 in ram for ram in live.ram):
                live.need(range(block // PAGE, (block + SLAB) // PAGE))
