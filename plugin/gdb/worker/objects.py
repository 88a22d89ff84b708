"""`nested vms`, `slots`, `guests`: what there is, without trees and chains."""

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from nestscope.plugin.gdb.worker.answer import Answer, Document, Request, problem_documents
from nestscope.plugin.present.state_view import problem_lines
from nestscope.plugin.present.tables import plain_table
from nestscope.plugin.present.units import count, size

SCHEMA = "nestscope.gdb/1"

_VM = ("vm", "struct kvm", "lpid", "MMU", "l1_ptcr", "slots", "nested")
_SLOT = (
    *("id", "base gfn", "pages", "size", "userspace_addr"),
    *("rmap array", "kvm_memory_slot"),
)
_GUEST = ("l1_lpid", "shadow", "refs", "l1_gr_to_hr", "shadow_pgtable", "kvm_nested_guest")


def vms(request: Request) -> Answer:
    """List the VMs of the host."""
    view = request.view
    table = plain_table(*_VM, title="VMs")
    rows: list[Document] = []
    for vm in view.vms():
        slots = view.slots(vm)
        nested = view.nested(vm) if vm.raw.radix else []
        held = view.vm_reader.lock_held(vm.raw)
        rows.append(
            {
                "vm": vm.number,
                "kvm": hex(vm.address),
                "lpid": vm.raw.lpid,
                "radix": None if vm.raw.radix is None else bool(vm.raw.radix),
                "mmu_lock_held": held,
                "l1_ptcr": _hex(vm.raw.l1_ptcr),
                "memslots": len(slots),
                "nested": [lpid for lpid, _ in nested],
            }
        )
        mode = {True: "radix", False: "HPT", None: "?"}[rows[-1]["radix"]]
        table.add_row(
            str(vm.number),
            hex(vm.address),
            _known(vm.raw.lpid),
            mode + (", mmu_lock held" if held else ""),
            _hex(vm.raw.l1_ptcr) or "?",
            count(len(slots)),
            count(len(nested)),
        )
    shown = table if rows else Text("there is no VM in this kernel")
    return _answer(request, "vms", rows, shown)


def vm_address(request: Request) -> Answer:
    """Return the address of the `struct kvm` that `--vm` chooses."""
    return Answer(value=request.radix_vm().address)


def slots(request: Request) -> Answer:
    """List the memslots of a VM."""
    view = request.view
    vm = view.vm(request.number("vm"))
    shift = view.kernel.page_shift
    table = plain_table(*_SLOT, title=f"memslots of VM {vm.number}")
    rows: list[Document] = []
    for slot in view.slots(vm):
        rows.append(
            {
                "id": slot.id,
                "base_gfn": slot.base_gfn,
                "npages": slot.npages,
                "flags": slot.flags,
                "userspace_addr": _hex(slot.userspace_addr),
                "rmap_array": _hex(slot.rmap),
                "address": hex(slot.address),
            }
        )
        table.add_row(
            str(slot.id),
            hex(slot.base_gfn),
            count(slot.npages),
            size(slot.npages << shift),
            _hex(slot.userspace_addr) or "?",
            _hex(slot.rmap) or "?",
            hex(slot.address),
        )
    return _answer(request, "memslots", rows, table)


def guests(request: Request) -> Answer:
    """List the nested guests of a VM."""
    view = request.view
    vm = request.radix_vm()
    shown = ("shadow_lpid", "refcnt", "l1_gr_to_hr", "shadow_pgtable", "address")
    table = plain_table(*_GUEST, title=f"nested guests of VM {vm.number}")
    rows: list[Document] = []
    for lpid, guest in view.nested(vm):
        row: Document = {"l1_lpid": lpid}
        if guest is not None:
            row |= {
                "shadow_lpid": guest.shadow_lpid,
                "refcnt": guest.refcnt,
                "l1_gr_to_hr": hex(guest.l1_gr_to_hr),
                "process_table": hex(guest.process_table),
                "shadow_pgtable": hex(guest.shadow_pgtable),
                "address": hex(guest.address),
            }
        rows.append(row)
        table.add_row(str(lpid), *(str(row.get(name, "?")) for name in shown))
    views = table if rows else Text(f"VM {vm.number} has no nested guest")
    return _answer(request, "nested", rows, views)


def target(request: Request) -> Answer:
    """Say what is read, and how the kernel is known."""
    opened = request.opened
    kernel = opened.kernel
    modules = ", ".join(kernel.module_symbols) or "none"
    rows = {
        "source": f"{opened.source.kind} {opened.source.name}",
        "kernel": kernel.release,
        "page_size": size(1 << kernel.page_shift),
        "types": opened.types,
        "kvm_modules": modules,
    }
    table = plain_table(title="target")
    table.add_column("what")
    table.add_column("is", overflow="fold")
    for name, value in rows.items():
        table.add_row(name.replace("_", " "), value)
    document = {"schema": SCHEMA, **rows, "problems": problem_documents(kernel.problems)}
    views: tuple[RenderableType, ...] = (
        table,
        *problem_lines(kernel.problems),
    )
    return Answer(document, views, kernel.release)


def _answer(request: Request, name: str, rows: list[Document], shown: Table | Text) -> Answer:
    problems = request.view.problems
    document = {"schema": SCHEMA, name: rows, "problems": problem_documents(problems)}
    views = (shown, *problem_lines(problems))
    return Answer(document, views, len(rows))


def _hex(value: int | None) -> str | None:
    return None if value is None else hex(value)


def _known(value: int | None) -> str:
    return "?" if value is None else str(value)
