"""A VM with nested guests, laid out by hand in a `World`, and the kernel that runs it."""

from dataclasses import dataclass, field

from nestscope.decoders.kernel.byteorder import ByteOrder
from nestscope.decoders.kernel.kernel import Kernel
from nestscope.decoders.kernel.memory import LINEAR_START
from nestscope.decoders.kernel.symbols import SymbolTable
from nestscope.decoders.state import Source
from tests.decoders.kernel.elf_file import Sym, symbol_table
from tests.decoders.kernel.world import World

SOURCE = Source("ram", "test")
RMAP = 0xC008_0000_0010_0000
PAGE = 1 << 12


@dataclass
class KvmWorld:
    """One VM: a memslot of 8 pages from gfn 16, nested guests 1 and 70."""

    byteorder: ByteOrder = "little"
    queued_lock: bool = True
    world: World = field(init=False)

    def __post_init__(self) -> None:
        self.world = world = World(self.byteorder, queued_lock=self.queued_lock)
        self.vm_list = world.allocate(16)
        self.host_root = world.table(13)
        world.map(self.host_root, 0x10_0000, 0xC000_0000_0030_0387)
        self.rmap_page = 0x20_0000
        world.map_kernel(RMAP, self.rmap_page)
        self.slot = world.make(
            "kvm_memory_slot",
            {
                "id": 0,
                "base_gfn": 16,
                "npages": 8,
                "userspace_addr": 0x1000_0000_0000,
                "flags": 1,
                "arch.rmap": RMAP,
            },
        )
        self.kvm = world.make(
            "kvm",
            {
                "arch.lpid": 1,
                "arch.radix": 1,
                "arch.pgtable": LINEAR_START | self.host_root,
                "arch.l1_ptcr": 0x40000,
            },
        )
        world.list(self.vm_list, [world.at("kvm", self.kvm, "vm_list")])
        memslots = world.at("kvm", self.kvm, "__memslots[1]")
        world.set("kvm_memslots", memslots, "node_idx", 1)
        world.set("kvm", self.kvm, "memslots[0]", memslots)
        node = world.at("kvm_memory_slot", self.slot, "id_node[1]")
        world.set("kvm_memslots", memslots, "id_hash[3].first", node)
        self.guests = {lpid: self._guest(lpid) for lpid in (1, 70)}
        self.leaves = [
            world.make("xa_node", {"shift": 0, f"slots[{lpid & 63}]": guest})
            for lpid, guest in self.guests.items()
        ]
        slots = {f"slots[{n}]": leaf + 2 for n, leaf in enumerate(self.leaves)}
        self.top = world.make("xa_node", {"shift": 6} | slots)
        head = "arch.kvm_nested_guest_idr.idr_rt.xa_head"
        world.set("kvm", self.kvm, head, self.top + 2)

    def _guest(self, lpid: int) -> int:
        root = self.world.table(13)
        self.world.map(root, 0x100_0000, 0xC000_0000_0030_0307)
        return self.world.make(
            "kvm_nested_guest",
            {
                "l1_host": self.kvm,
                "l1_lpid": lpid,
                "shadow_lpid": lpid + 100,
                "refcnt": 1,
                "l1_gr_to_hr": 0x50_0000,
                "process_table": 0x60_0000,
                "shadow_pgtable": LINEAR_START | root,
            },
        )

    def rmap(self, gfn: int, word: int) -> None:
        """Write the rmap word of `gfn`."""
        self.world.put(LINEAR_START + self.rmap_page + 8 * (gfn - 16), word)

    def node(self, following: int, entry: int) -> int:
        """Lay out a `struct rmap_nested`; return its address."""
        address = self.world.allocate(16)
        self.world.put(address, following, entry)
        return address

    def kernel(self) -> Kernel:
        """Return the kernel, with `vm_list` as the only symbol of module kvm."""
        tables = symbol_table([Sym("vm_list", self.vm_list, 16)], self.world.order)
        return Kernel(
            release="6.12-test",
            page_shift=16,
            byteorder=self.byteorder,
            symbols=SymbolTable(b"", b"", self.byteorder),
            types=self.world.types,
            memory=self.world.memory,
            module_symbols={"kvm": SymbolTable(*tables, self.byteorder)},
        )
