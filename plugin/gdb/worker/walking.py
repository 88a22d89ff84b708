"""`nested walk`: both stages and the shadow tree of one address, level by level."""

from dataclasses import replace

from rich.table import Table

from nestscope.decoders.errors import UnreadableMemoryError
from nestscope.decoders.guest_memory import FirstReadable
from nestscope.decoders.kernel.vmm_memory import VmmReader
from nestscope.decoders.radix import LINUX, RadixRoot, Step, Walk, walk
from nestscope.decoders.sources.protocol import Memory
from nestscope.decoders.state import (
    FORM_NAMES,
    Chain,
    KernelInfo,
    Memslot,
    NestedGuest,
    State,
    Vm,
)
from nestscope.decoders.two_stage import (
    TwoStageWalk,
    chain_gfn,
    walk_guest_address,
    walk_nested_address,
)
from nestscope.decoders.words import pde, pte
from nestscope.plugin.gdb.worker.answer import Answer, Request
from nestscope.plugin.gdb.worker.chain import chain_document, root_of
from nestscope.plugin.gdb.worker.kernel_view import ChainAt, KernelView, LookupFailedError, VmAt
from nestscope.plugin.present.tables import plain_table
from nestscope.plugin.present.walk_tree import walk_document, walk_tree

_PIECE = 4096


def walk_address(request: Request) -> Answer:
    """Walk a guest real address, or with `--lpid` a nested real address."""
    vm = request.radix_vm()
    view = request.view
    address, lpid = request.needed("address"), request.number("lpid")
    state = _state(request, vm, lpid)
    (shown,) = state.vms
    pgtable = vm.raw.pgtable or 0
    root_of(pgtable, f"VM {vm.number}")
    if lpid is None:
        found = walk_guest_address(view.physical, state, shown, pgtable, address)
    else:
        memory = _guest_memory(view, vm, shown)
        found = walk_nested_address(view.physical, memory, state, shown, pgtable, lpid, address)
    chain = _chain(view, vm, found)
    found = replace(found, chain=None if chain is None else _as_chain(chain))
    document = walk_document(found) | {"vm": vm.number}
    if chain is not None and found.chain is not None:
        document["rmap"] = chain_document(chain)
    for stage in ("guest", "host", "shadow"):
        steps = getattr(found, stage)
        if steps is not None:
            for step, told in zip(steps.steps, document[stage]["steps"], strict=True):
                told["bits_set"] = dict(_bits(step))
    return Answer(document, (walk_tree(found), _bit_table(found)), _value(found))


class _TreeMemory:
    """A guest's memory through the host's tree for it, one walk a page. Satisfies `Memory`."""

    def __init__(self, physical: Memory, root: RadixRoot) -> None:
        self._physical = physical
        self._root = root

    def read(self, address: int, length: int) -> bytes:
        """Return `length` bytes at guest real `address`.

        Raises:
            UnreadableMemoryError: if the host maps no page there.
        """
        parts: list[bytes] = []
        while length > 0:
            piece = min(length, _PIECE - address % _PIECE)
            found = walk(self._physical, self._root, address, LINUX)
            if found.leaf is None:
                why = f"the host maps no page at guest real address {address:#x}"
                raise UnreadableMemoryError(address, length, why)
            parts.append(self._physical.read(found.leaf.real_address, piece))
            address += piece
            length -= piece
        return b"".join(parts)


def _state(request: Request, vm: VmAt, lpid: int | None) -> State:
    """Return a State that holds what a walk needs of the VM: no leaves, no chains."""
    view = request.view
    slots = tuple(
        Memslot(slot.id, slot.base_gfn, slot.npages, slot.userspace_addr, slot.flags, slot.rmap)
        for slot in view.slots(vm)
    )
    nested = () if lpid is None else tuple(_guest(*guest) for guest in view.nested(vm))
    raw = vm.raw
    shown = Vm(
        vm.address, raw.lpid, True, view.vm_reader.lock_held(raw), raw.l1_ptcr, slots, nested=nested
    )
    kernel = view.kernel
    info = KernelInfo(kernel.release, kernel.page_shift)
    return State(request.opened.source, info, (shown,))


def _guest(lpid: int, raw: object) -> NestedGuest:
    def member(name: str) -> int | None:
        return getattr(raw, name, None)

    return NestedGuest(
        lpid,
        member("shadow_lpid"),
        member("refcnt"),
        member("l1_gr_to_hr"),
        member("process_table"),
        member("shadow_pgtable"),
    )


def _guest_memory(view: KernelView, vm: VmAt, shown: Vm) -> Memory:
    """Return the guest's memory: through its VMM where that can be followed, else the tree."""
    ways: list[Memory] = [_TreeMemory(view.physical, root_of(vm.raw.pgtable, f"VM {vm.number}"))]
    reader = VmmReader(view.kernel.types, view.memory)
    through_vmm = reader.memory_of(view.physical, shown, view.kernel.page_shift)
    return FirstReadable([through_vmm, *ways] if through_vmm is not None else ways)


def _chain(view: KernelView, vm: VmAt, found: TwoStageWalk) -> ChainAt | None:
    """Return the chain of the guest page, if a host leaf says where it hangs."""
    if found.host is None or found.host.leaf is None:
        return None
    gpa = found.host.address
    gfn = chain_gfn(gpa, found.host.leaf.shift, view.kernel.page_shift)
    try:
        return view.chain(vm, gfn)
    except LookupFailedError:
        return None  # a leaf outside of every memslot: `check` has a rule for it


def _as_chain(found: ChainAt) -> Chain | None:
    if not found.reading.form:
        return None
    return Chain(found.gfn, FORM_NAMES[found.reading.form], found.reading.entries)


def _bit_table(found: TwoStageWalk) -> Table:
    title = "the words, field by field (what is not 0)"
    table = plain_table("stage", "level", "at", "word", title=title)
    table.add_column("fields")
    for stage in ("guest", "host", "shadow"):
        steps: Walk | None = getattr(found, stage)
        for step in steps.steps if steps is not None else ():
            shown = " ".join(f"{name} {value}" for name, value in _bits(step))
            table.add_row(
                stage, str(step.level), hex(step.entry_address), f"{step.word:#018x}", shown
            )
    return table


def _bits(step: Step) -> list[tuple[str, str]]:
    """Return the fields of a step's word that are not 0, as the ISA names them."""
    described = pde.describe(step.word) if step.kind == "table" else pte.describe(step.word)
    return [(field.name.upper(), hex(field.value)) for field in described if field.value]


def _value(found: TwoStageWalk) -> str | None:
    end = found.shadow if found.nested is not None else found.host
    return None if end is None or end.leaf is None else hex(end.leaf.real_address)
