"""A kernel's memory, made by hand: physical pages, a page table, structures laid out by types.

Layouts are deliberately not those of any kernel, so that a reader that knows
an offset by heart fails.
"""

import struct
from collections.abc import Sequence

from nestscope.decoders.errors import UnreadableMemoryError
from nestscope.decoders.kernel.btf import Btf
from nestscope.decoders.kernel.byteorder import ByteOrder, prefix
from nestscope.decoders.kernel.memory import LINEAR_START, KernelMemory
from nestscope.decoders.kernel.types import Types
from nestscope.decoders.words.pde import make_pde
from tests.decoders.kernel.btf_bytes import UNION, BtfBytes

SIZE = 4 << 20
PGD = 0x10000
FIRST_FREE = 0x40000
LEAF = 0xC000_0000_0000_0000
SLOTS = 64
BUCKETS = 8


class Physical:
    """`SIZE` bytes of RAM from address 0."""

    def __init__(self) -> None:
        self.data = bytearray(SIZE)

    def read(self, address: int, length: int) -> bytes:
        if address < 0 or length < 0 or address + length > len(self.data):
            raise UnreadableMemoryError(address, length, "no RAM there")
        return bytes(self.data[address : address + length])


class World:
    """RAM with an allocator, the kernel's page table and the types of KVM's structures."""

    def __init__(self, byteorder: ByteOrder = "little", *, queued_lock: bool = True) -> None:
        self.byteorder = byteorder
        self.order = prefix(byteorder)
        self.physical = Physical()
        self.memory = KernelMemory(self.physical, PGD, byteorder)
        self.types = Types([Btf(kvm_types(self.order, queued_lock), "test")])
        self._free = FIRST_FREE

    def allocate(self, size: int, align: int = 16) -> int:
        """Return the kernel address (linear map) of `size` fresh bytes."""
        start = (self._free + align - 1) & ~(align - 1)
        self._free = start + size
        assert self._free <= SIZE
        return LINEAR_START | start

    def write(self, address: int, data: bytes) -> None:
        """Write at a kernel address of the linear map."""
        start = address - LINEAR_START
        self.physical.data[start : start + len(data)] = data

    def put(self, address: int, *words: int) -> None:
        """Write 64-bit words in the kernel's byte order."""
        self.write(address, struct.pack(f"{self.order}{len(words)}Q", *words))

    def put_big(self, address: int, *words: int) -> None:
        """Write words of a radix table, which are big-endian always."""
        self.write(address, struct.pack(f">{len(words)}Q", *words))

    def make(self, name: str, members: dict[str, int], at: int | None = None) -> int:
        """Lay out a structure, everything else 0; return its kernel address."""
        size = self.types.struct(name).size
        address = self.allocate(size, 128) if at is None else at
        for path, value in members.items():
            self.set(name, address, path, value)
        return address

    def set(self, name: str, address: int, path: str, value: int) -> None:
        """Write one member."""
        member = self.types.member(name, path)
        data = (value & (1 << 8 * member.size) - 1).to_bytes(member.size, self.byteorder)
        self.write(address + member.offset, data)

    def at(self, name: str, address: int, path: str) -> int:
        """Return the address of a member."""
        return address + self.types.offset(name, path)

    def list(self, head: int, nodes: Sequence[int]) -> None:
        """Link list_heads into a ring."""
        ring = [head, *nodes]
        for number, node in enumerate(ring):
            self.put(node, ring[(number + 1) % len(ring)], ring[number - 1])

    def table(self, bits: int) -> int:
        """Return the physical address of an empty radix table."""
        return self.allocate(8 << bits, 8 << bits) - LINEAR_START

    def map(self, root: int, address: int, pte: int, last_bits: int = 5) -> None:
        """Map `address` (below 2**52) by `pte` in the radix tree at physical `root`."""
        table, shift = root, 52
        for bits, below in ((13, 9), (9, 9), (9, last_bits), (last_bits, 0)):
            shift -= bits
            entry = table + 8 * (address >> shift & (1 << bits) - 1)
            if not below:
                self.put_big(LINEAR_START | entry, pte)
                return
            word = int.from_bytes(self.physical.read(entry, 8), "big")
            if not word:
                word = make_pde(self.table(below), below)
                self.put_big(LINEAR_START | entry, word)
            table = word & 0x0FFF_FFFF_FFFF_FF00

    def map_kernel(self, address: int, physical: int, last_bits: int = 9) -> None:
        """Map one page at a vmalloc address."""
        self.map(PGD, address & (1 << 52) - 1, LEAF | physical | 0x186, last_bits)


def kvm_types(order: str, queued_lock: bool) -> bytes:
    """Return BTF of the structures that are read, in an order and with gaps of our own."""
    return kvm_btf(order, queued_lock).bytes()


def kvm_btf(order: str, queued_lock: bool) -> BtfBytes:
    """Return the builder of `kvm_types`, on which a module's types can stand."""
    btf = BtfBytes(order)
    u8, u16, u32 = btf.number("u8", 1), btf.number("u16", 2), btf.number("u32", 4)
    s16, s32 = btf.number("short", 2, signed=True), btf.number("int", 4, signed=True)
    u64, s64, pointer = btf.number("u64", 8), btf.number("long", 8, signed=True), btf.pointer()

    def struct_(name: str, *members: tuple[str, int, int], size: int = 0, kind: int = 4) -> int:
        """Members are (name, type, byte offset)."""
        bits = [(member, of, 8 * offset) for member, of, offset in members]
        return btf.struct(name, size, *bits, kind=kind)

    list_head = struct_("list_head", ("next", pointer, 0), ("prev", pointer, 8), size=16)
    node = struct_("hlist_node", ("next", pointer, 0), ("pprev", pointer, 8), size=16)
    head = struct_("hlist_head", ("first", pointer, 0), size=8)
    struct_(
        "xa_node",
        ("shift", u8, 3),
        ("slots", btf.array(pointer, SLOTS), 24),
        size=24 + 8 * SLOTS + 16,
    )
    arch_slot = struct_("kvm_arch_memory_slot", ("rmap", pointer, 8), size=16)
    struct_(
        "kvm_memory_slot",
        ("npages", u64, 0),
        ("id_node", btf.array(node, 2), 16),
        ("base_gfn", u64, 56),
        ("flags", u32, 68),
        ("id", s16, 64),
        ("arch", arch_slot, 72),
        ("userspace_addr", u64, 88),
        size=104,
    )
    memslots = struct_(
        "kvm_memslots",
        ("node_idx", s32, 4),
        ("id_hash", btf.array(head, BUCKETS), 16),
        size=16 + 8 * BUCKETS,
    )
    root = struct_("xarray", ("xa_head", pointer, 8), size=16)
    idr = struct_("idr", ("idr_rt", root, 0), ("idr_base", u32, 16), size=24)
    arch = struct_(
        "kvm_arch",
        ("l1_ptcr", u64, 0),
        ("kvm_nested_guest_idr", idr, 16),
        ("radix", u8, 41),
        ("lpid", u32, 44),
        ("pgtable", pointer, 56),
        size=64,
    )
    word = struct_("", ("val", u32, 0), ("locked", u16, 0), size=4, kind=UNION)
    plain = struct_("", ("slock", u32, 0), size=4)
    raw = struct_("raw_spinlock", ("raw_lock", word if queued_lock else plain, 0), size=4)
    rlock = struct_("", ("rlock", raw, 0), size=4, kind=UNION)
    lock = btf.typedef("spinlock_t", struct_("spinlock", ("", rlock, 0), size=4))
    struct_(
        "kvm",
        ("vm_list", list_head, 8),
        ("arch", arch, 32),
        ("mmu_lock", lock, 100),
        ("__memslots", btf.array(memslots, 2), 112),
        ("memslots", btf.array(pointer, 1), 112 + 2 * (16 + 8 * BUCKETS)),
        size=280,
    )
    struct_(
        "kvm_nested_guest",
        ("refcnt", s64, 0),
        ("l1_host", pointer, 8),
        ("shadow_lpid", s32, 16),
        ("l1_lpid", s32, 24),
        ("shadow_pgtable", pointer, 32),
        ("process_table", u64, 40),
        ("l1_gr_to_hr", u64, 48),
        size=56,
    )
    kallsyms = struct_(
        "mod_kallsyms",
        ("strtab", pointer, 0),
        ("symtab", pointer, 8),
        ("num_symtab", u32, 16),
        size=24,
    )
    memory = struct_("module_memory", ("base", pointer, 8), size=16)
    struct_(
        "module",
        ("sect_attrs", pointer, 0),
        ("list", list_head, 16),
        ("name", btf.array(u8, 56), 32),
        ("mem", btf.array(memory, 7), 88),
        ("core_kallsyms", kallsyms, 200),
        size=224,
    )
    attribute = struct_("attribute", ("name", pointer, 8), size=16)
    bin_attribute = struct_("bin_attribute", ("attr", attribute, 8), size=32)
    section = struct_("module_sect_attr", ("address", u64, 0), ("battr", bin_attribute, 8), size=40)
    struct_(
        "module_sect_attrs",
        ("nsections", u32, 4),
        ("attrs", btf.array(section, 0), 16),
        size=16,
    )
    struct_(
        "btf_module", ("module", pointer, 0), ("list", list_head, 8), ("btf", pointer, 24), size=32
    )
    struct_("btf", ("data_size", u32, 4), ("data", pointer, 8), size=16)
    return btf
