"""VMs and their nested guests: `vm_list`, `struct kvm`, `struct kvm_nested_guest`."""

import struct
from typing import NamedTuple

from nestscope.decoders.errors import UnreadableMemoryError
from nestscope.decoders.kernel.byteorder import prefix
from nestscope.decoders.kernel.lists import ListError, list_entries
from nestscope.decoders.kernel.memory import KernelMemory
from nestscope.decoders.kernel.record import Path, Record
from nestscope.decoders.kernel.types import Types
from nestscope.decoders.kernel.xarray import XArrayReader
from nestscope.decoders.state import Problem

MAX_VMS = 65536
MAX_L1_LPID = 4095  # the rmap entry has 12 bits for it


class RawVm(NamedTuple):
    """Members of `struct kvm`, as they are; None: this kernel has no such member.

    `memslots` is the address of the active set, `nested` the `xa_head` of the
    IDR of nested guests, where there is one.
    """

    lpid: int | None
    radix: int | None
    pgtable: int | None
    l1_ptcr: int | None
    lock: int | None
    memslots: int | None
    nested: int | None
    nested_base: int | None


class RawNested(NamedTuple):
    """Members of `struct kvm_nested_guest`, and its address."""

    l1_host: int
    l1_lpid: int
    shadow_lpid: int
    shadow_pgtable: int
    l1_gr_to_hr: int
    process_table: int
    refcnt: int
    address: int


class VmReader:
    """Reads VMs and nested guests; the layouts are looked up once."""

    def __init__(self, types: Types, memory: KernelMemory) -> None:
        """Prepare to read with the layouts of `types`.

        Raises:
            UnknownTypeError: if `struct kvm` or `struct kvm_nested_guest` is not described.
        """
        self._memory = memory
        self._link = types.offset("kvm", "vm_list")
        # arch_spinlock_t: powerpc's qspinlock since 9f61521c7a28 ("powerpc/qspinlock: powerpc
        # qspinlock implementation"), before that the generic one, whose val is an atomic_t;
        # slock without queued spinlocks.
        raw_lock = "mmu_lock.rlock.raw_lock"
        self._queued = types.has("kvm", f"{raw_lock}.val")
        idr = "arch.kvm_nested_guest_idr"
        paths = [
            ("arch.lpid",),
            ("arch.radix",),
            ("arch.pgtable",),
            ("arch.l1_ptcr",),
            (f"{raw_lock}.val.counter", f"{raw_lock}.val", f"{raw_lock}.slock"),
            ("memslots[0]",),
            (f"{idr}.idr_rt.xa_head",),
            (f"{idr}.idr_base",),
        ]
        present = [types.first("kvm", *candidates) for candidates in paths]
        self._kvm = Record(types, "kvm", present, memory.byteorder)
        members: list[Path] = list(RawNested._fields[:-1])
        self._nested = Record(types, "kvm_nested_guest", members, memory.byteorder)
        self._idr = XArrayReader(types, memory) if types.has("kvm", idr) else None
        array = types.first("kvm", "arch.nested_guests")
        self._array = None if array is None else types.member("kvm", array)

    def addresses(self, head: int, path: str) -> tuple[list[int], list[Problem]]:
        """Return the address of every `struct kvm` on the list at `head`, in list order."""
        found: list[int] = []
        try:
            # extend() keeps the good entries when the list turns out to be broken.
            found.extend(list_entries(self._memory, head, self._link, MAX_VMS))
        except ListError as error:
            return found, [Problem(path, str(error), error.address)]
        return found, []

    def vm(self, address: int) -> RawVm:
        """Read `struct kvm`.

        Raises:
            UnreadableMemoryError: if its bytes cannot be read.
        """
        return RawVm(*self._kvm.read(self._memory, address))

    def lock_held(self, vm: RawVm) -> bool | None:
        """Say whether somebody holds `mmu_lock`."""
        if vm.lock is None:
            return None
        # The other bits of a qspinlock are owner, hints and queue.
        return bool(vm.lock & 1) if self._queued else vm.lock != 0

    def nested(
        self, kvm: int, vm: RawVm, path: str
    ) -> tuple[list[tuple[int, RawNested | None]], list[Problem]]:
        """Return `(l1_lpid, guest)` of each nested guest, by lpid; None: it cannot be read."""
        entries, problems = self._entries(kvm, vm, path)
        guests: list[tuple[int, RawNested | None]] = []
        for number, (index, address) in enumerate(entries):
            here = f"{path}[{number}]"
            lpid = index + (vm.nested_base or 0)
            try:
                guest = self.guest(address)
            except UnreadableMemoryError as error:
                problems.append(Problem(here, f"struct kvm_nested_guest: {error}", address))
                guests.append((lpid, None))
                continue
            if guest.l1_lpid != lpid or lpid > MAX_L1_LPID:
                message = f"it is kept under lpid {lpid} but says l1_lpid {guest.l1_lpid}"
                where = f"{here}.l1_lpid"
                problems.append(Problem(where, message, address, "idr-key", guest.l1_lpid))
            if guest.l1_host != kvm:
                message = f"its l1_host is {guest.l1_host:#x}, not this VM"
                problems.append(Problem(here, message, address, "l1-host", guest.l1_host))
            guests.append((lpid, guest))
        return guests, problems

    def guest(self, address: int) -> RawNested:
        """Read the `struct kvm_nested_guest` at `address`.

        Raises:
            UnreadableMemoryError: if its bytes cannot be read.
        """
        return RawNested._make((*self._nested.read_numbers(self._memory, address), address))

    def _entries(
        self, kvm: int, vm: RawVm, path: str
    ) -> tuple[list[tuple[int, int]], list[Problem]]:
        """Return `(index, struct kvm_nested_guest)` of what the kernel finds them by."""
        if self._idr is not None and vm.nested is not None:
            return self._idr.entries(vm.nested, path)
        if self._array is None:
            return [], [Problem(path, "this kernel keeps its nested guests in an unknown form")]
        # Kernels without the IDR have `nested_guests[]`, by l1_lpid, and in `max_nested_lpid`
        # the highest one in use. The whole array is read, whatever that says.
        start = kvm + self._array.offset
        try:
            data = self._memory.read(start, self._array.size)
        except UnreadableMemoryError as error:
            return [], [Problem(path, f"nested_guests[]: {error}", start)]
        order = prefix(self._memory.byteorder)
        pointers = struct.unpack(f"{order}{len(data) // 8}Q", data)
        return [(lpid, pointer) for lpid, pointer in enumerate(pointers) if pointer], []
