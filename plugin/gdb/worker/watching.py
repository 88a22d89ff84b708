"""What the breakpoint helpers ask: functions of the kernel, chains at an address or in a range."""

import struct

import numpy as np

from nestscope.decoders.kernel.byteorder import prefix
from nestscope.decoders.kernel.memslots import RawMemslot
from nestscope.decoders.rmap_array import read_rmap
from nestscope.plugin.gdb.worker.answer import Answer, Request
from nestscope.plugin.gdb.worker.chain import one_line
from nestscope.plugin.gdb.worker.kernel_view import KernelView, LookupFailedError

_WORD = 8
_MAX_FUNCTION = 64 << 10
# bclr without LK: opcode 19, extended opcode 16. BO=20 of it is the unconditional blr.
_BCLR_MASK = 0xFC00_07FF
_BCLR = 0x4C00_0020
_BO = 0x0280_0000


def function(request: Request) -> Answer:
    """Return a function's local entry point (ELFv2) and the addresses where it returns.

    `returns` are pairs: address of a `bclr`, and whether it always returns.
    """
    name = str(request.arguments["name"])
    view = request.view
    view.addresses()  # also brings the modules' symbols up to date
    symbol = view.kernel.symbol(name)
    end = symbol.address + min(symbol.size, _MAX_FUNCTION)
    code = view.memory.read(symbol.local_entry, max(end - symbol.local_entry, 0) // 4 * 4)
    words = struct.unpack(f"{prefix(view.kernel.byteorder)}{len(code) // 4}I", code)
    returns = [
        [symbol.local_entry + 4 * at, word & _BO == _BO]
        for at, word in enumerate(words)
        if word & _BCLR_MASK == _BCLR
    ]
    if not returns:
        raise LookupFailedError(
            f"{name} at {symbol.address:#x} has no return that could be watched"
        )
    return Answer({"entry": symbol.local_entry, "returns": returns})


def chain_at(request: Request) -> Answer:
    """Return the chain whose rmap word is at `address`, and whether it has an entry."""
    view = request.view
    address = request.needed("address")
    gfn, slot = _place(view, address)
    found = view.chain_at(gfn, slot, address)
    wanted = (request.needed("l1_lpid"), request.needed("n_gpa"))
    document = {"gfn": gfn, "chain": one_line(found), "has": wanted in found.reading.entries}
    return Answer(document)


def where(request: Request) -> Answer:
    """Return the rmap words, in a range of a slot or in a whole VM, whose chain has an entry.

    The range is `nbytes` at guest real address `gpa` of the slot at `memslot`.
    """
    view = request.view
    kvm = request.needed("kvm")
    vm = next((vm for vm in view.vms() if vm.address == kvm), None)
    if vm is None:
        return Answer({"words": []})
    slots = view.slots(vm)
    memslot = request.number("memslot")
    ranges: list[tuple[RawMemslot, int, int]] = []
    for slot in slots:
        if memslot is None:
            ranges.append((slot, 0, slot.npages))
        elif slot.address == memslot:
            first = (request.needed("gpa") >> view.kernel.page_shift) - slot.base_gfn
            pages = max(request.needed("nbytes") >> view.kernel.page_shift, 1)
            ranges.append((slot, max(first, 0), min(pages, slot.npages - first)))
    words: list[int] = []
    for slot, first, pages in ranges:
        if slot.rmap and pages > 0:
            words += _words_with(view, slot, first, pages, request)
    return Answer({"words": words})


def _words_with(
    view: KernelView, slot: RawMemslot, first: int, pages: int, request: Request
) -> list[int]:
    """Return the address of each rmap word in the range whose chain has the entry."""
    start = (slot.rmap or 0) + _WORD * first
    base = slot.base_gfn + first
    chains, _ = read_rmap(view.memory, start, pages, base, view.kernel.byteorder)
    entries = chains.entries
    hit = (entries["l1_lpid"] == request.needed("l1_lpid")) & (
        entries["n_gpa"] == np.uint64(request.needed("n_gpa"))
    )
    places = np.flatnonzero(hit)
    found = [
        start + _WORD * (gfn - base)
        for gfn, _, first_entry, count in chains.index.tolist()
        if np.any((places >= first_entry) & (places < first_entry + count))
    ]
    return found if len(places) else []


def _place(view: KernelView, address: int) -> tuple[int, RawMemslot]:
    """Return the gfn and the memslot of an rmap word."""
    for vm in view.vms():
        for slot in view.slots(vm):
            if slot.rmap and 0 <= address - slot.rmap < _WORD * slot.npages:
                return slot.base_gfn + (address - slot.rmap) // _WORD, slot
    raise LookupFailedError(f"{address:#x} is in the rmap array of no memslot")
