"""The agent's commands for what VMM and host do to a VM."""

from nestscope.plugin.qemu.errors import LabError
from nestscope.sim import events as ev

_RADIX, _GTSE = 1, 2
_GUEST_RADIX = 1 << 63
"""GR of a process table register, which is otherwise empty."""


def vmm_command(event: ev.VmmEvent) -> str:  # noqa: PLR0912  one an event
    """Return the agent's command line for an event of the VMM or its host.

    Raises:
        LabError: for an event that nothing in a kernel can be made to do.
    """
    match event:
        case ev.AddSlot(slot, gpa, size, hva, flags):
            return f"region {slot} {gpa:#x} {size:#x} {hva:#x} {flags}"
        case ev.DeleteSlot(slot):
            return f"region {slot} 0 0 0 0"
        case ev.MoveSlot(slot, gpa):
            return f"move {slot} {gpa:#x}"
        case ev.SetSlotFlags(slot, flags):
            return f"flags {slot} {flags}"
        case ev.GetDirtyLog(slot):
            return f"dirtylog {slot}"
        case ev.ClearDirtyLog(slot, first, count):
            return f"cleardirty {slot} {first} {count}"
        case ev.CollapseHuge(gpa, shift):
            return f"collapse {gpa:#x} {shift}"
        case ev.SplitHuge(gpa, shift):
            return f"split {gpa:#x} {shift}"
        case ev.Protect(gpa, length, writable):
            return f"protect {gpa:#x} {length:#x} {int(writable)}"
        case ev.AdviseHuge(gpa, length, on):
            return f"thp {gpa:#x} {length:#x} {int(on)}"
        case ev.MapHugetlb(gpa, length, shift):
            return f"hugetlb {gpa:#x} {length:#x} {shift}"
        case ev.ClearRefs(what):
            return f"clearrefs {what}"
        case ev.Fork():
            return "fork"
        case ev.Migrate(gpa, length):
            return f"migrate {gpa:#x} {length:#x}"
        case ev.Remap(gpa, length):
            return f"remap {gpa:#x} {length:#x}"
        case ev.Age(gpa, length):
            return f"age {gpa:#x} {length:#x}"
        case ev.DestroyVm():
            return "destroy"
        case ev.SwitchToHpt():
            return "mmu 0 0"
        case ev.AllocateHtab(order):
            return f"htab {order & 0xFFFF_FFFF}"
        case ev.SwitchToRadix():
            return f"mmu {_RADIX | _GTSE} {_GUEST_RADIX:#x}"
    raise LabError(f"a live kernel cannot be made to do this alone: {event}")
