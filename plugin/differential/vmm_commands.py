"""The agent's commands for what VMM and host do to a VM."""

from nestscope.plugin.qemu.errors import LabError
from nestscope.sim.events import (
    AddSlot,
    AdviseHuge,
    Age,
    AllocateHtab,
    ClearDirtyLog,
    CollapseHuge,
    DeleteSlot,
    DestroyVm,
    Fork,
    GetDirtyLog,
    Migrate,
    MoveSlot,
    Protect,
    Remap,
    SetSlotFlags,
    SplitHuge,
    SwitchToHpt,
    SwitchToRadix,
    VmmEvent,
)

_RADIX, _GTSE = 1, 2
_GUEST_RADIX = 1 << 63
"""GR of a process table register, which is otherwise empty."""


def vmm_command(event: VmmEvent) -> str:  # noqa: PLR0912  one an event
    """Return the agent's command line for an event of the VMM or its host.

    Raises:
        LabError: for an event that nothing in a kernel can be made to do.
    """
    match event:
        case AddSlot(slot, gpa, size, hva, flags):
            return f"region {slot} {gpa:#x} {size:#x} {hva:#x} {flags}"
        case DeleteSlot(slot):
            return f"region {slot} 0 0 0 0"
        case MoveSlot(slot, gpa):
            return f"move {slot} {gpa:#x}"
        case SetSlotFlags(slot, flags):
            return f"flags {slot} {flags}"
        case GetDirtyLog(slot):
            return f"dirtylog {slot}"
        case ClearDirtyLog(slot, first, count):
            return f"cleardirty {slot} {first} {count}"
        case CollapseHuge(gpa, shift):
            return f"collapse {gpa:#x} {shift}"
        case SplitHuge(gpa, shift):
            return f"split {gpa:#x} {shift}"
        case Protect(gpa, length, writable):
            return f"protect {gpa:#x} {length:#x} {int(writable)}"
        case AdviseHuge(gpa, length, on):
            return f"thp {gpa:#x} {length:#x} {int(on)}"
        case Fork():
            return "fork"
        case Migrate(gpa, length):
            return f"migrate {gpa:#x} {length:#x}"
        case Remap(gpa, length):
            return f"remap {gpa:#x} {length:#x}"
        case Age(gpa, length):
            return f"age {gpa:#x} {length:#x}"
        case DestroyVm():
            return "destroy"
        case SwitchToHpt():
            return "mmu 0 0"
        case AllocateHtab(order):
            return f"htab {order & 0xFFFF_FFFF}"
        case SwitchToRadix():
            return f"mmu {_RADIX | _GTSE} {_GUEST_RADIX:#x}"
    raise LabError(f"a live kernel cannot be made to do this alone: {event}")
