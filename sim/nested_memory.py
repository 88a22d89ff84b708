"""What the processor does with memory for a nested guest: through the shadow tree."""

from nestscope.decoders.words.pte import PTE_RPN
from nestscope.sim.constants import EFFECTIVE_BITS
from nestscope.sim.entry_state import UNKNOWN
from nestscope.sim.errors import HostDamageError, UnmodelledError
from nestscope.sim.fault import Fault
from nestscope.sim.frames import ZERO_FRAME
from nestscope.sim.hardware import access_fault
from nestscope.sim.kvm import Kvm, NestedGuest
from nestscope.sim.payload import INSTRUCTION
from nestscope.sim.tree import RadixTree

ACCESS = 8
TARGET_PAGE = 1 << 12
"""Within it the processor makes an access at once; across its end, one after the other."""


def fetch_fault(kvm: Kvm, nested: NestedGuest, n_gpa: int, nip: int) -> Fault | None:
    """Fetch an instruction with the hardware; return its storage interrupt, if any."""
    facts = kvm.facts
    dsisr = access_fault(nested.shadow, n_gpa, "fetch", rc_by_hardware=facts.rc_by_hardware)
    if not dsisr:
        return None
    return Fault("fetch", n_gpa, dsisr if facts.hisi_flags_visible else 0, nip)


def access_fault_of(
    kvm: Kvm, nested: NestedGuest, kind: str, n_gpa: int, effective: int
) -> Fault | None:
    """Try a load or store with the hardware; return its storage interrupt, if any."""
    rc_by_hardware = kvm.facts.rc_by_hardware
    for offset in pieces(n_gpa):
        at = n_gpa + offset & EFFECTIVE_BITS
        dsisr = access_fault(nested.shadow, at, kind, rc_by_hardware=rc_by_hardware)
        if dsisr:
            return Fault(kind, at, dsisr, effective + offset)
    return None


def pieces(n_gpa: int) -> tuple[int, ...]:
    """Return where the parts of an access begin: two if it crosses the end of a page."""
    first = TARGET_PAGE - n_gpa % TARGET_PAGE
    return (0,) if first >= ACCESS else (0, first)


def host_location(kvm: Kvm, tree: RadixTree, real: int) -> tuple[int, int]:
    """Return the host frame and the offset in it that a tree gives for a real address."""
    pte, shift = tree.find(real)
    address = pte & PTE_RPN | real & ((1 << (shift or kvm.page_shift)) - 1)
    return address >> kvm.page_shift, address & ((1 << kvm.page_shift) - 1)


def fetched(kvm: Kvm, nested: NestedGuest, n_gpa: int) -> int:
    """Return the instruction at `n_gpa`."""
    frame, offset = host_location(kvm, nested.shadow, n_gpa)
    data = kvm.memory.read_frame(frame, offset, INSTRUCTION)
    if not is_alive(kvm, frame) or UNKNOWN.startswith(data):
        raise UnmodelledError(f"nested guest {nested.l1_lpid} executes what nobody knows")
    return int.from_bytes(data, "little")


def is_alive(kvm: Kvm, frame: int) -> bool:
    """Whether a frame is the VMM's now: neither mixed (finding 0002) nor freed (0001)."""
    memory = kvm.memory
    if frame in memory.contents or frame == ZERO_FRAME:
        return True
    if frame in kvm.mixed:
        return False
    return frame in memory.pages.values() or any(
        first <= frame < first + (1 << shift - kvm.page_shift)
        for shift, blocks in memory.huge.items()
        for first in blocks.values()
    )


def load(kvm: Kvm, nested: NestedGuest, n_gpa: int) -> bytes:
    """Return the 8 bytes at `n_gpa`; UNKNOWN where a page of the host was mixed up."""
    data = b""
    for at, length in spans(kvm, n_gpa):
        frame, offset = host_location(kvm, nested.shadow, at)
        if not is_alive(kvm, frame):
            return UNKNOWN
        data += kvm.memory.read_frame(frame, offset, length)
    return UNKNOWN if UNKNOWN[:4] in data else data


def store(kvm: Kvm, nested: NestedGuest, n_gpa: int, data: bytes) -> None:
    """Store 8 bytes at `n_gpa`.

    Raises:
        HostDamageError: if it goes to a page of the host that is not the guest's.
    """
    done = 0
    for at, length in spans(kvm, n_gpa):
        frame, offset = host_location(kvm, nested.shadow, at)
        if not is_alive(kvm, frame):
            raise HostDamageError(
                "0002" if frame in kvm.mixed else "0001",
                f"nested guest {nested.l1_lpid} stores into a host page that is not the guest's",
            )
        kvm.memory.write_frame(frame, offset, data[done : done + length])
        done += length


def spans(kvm: Kvm, n_gpa: int) -> tuple[tuple[int, int], ...]:
    """Return address and length of each part of 8 bytes that lies in one host page."""
    first = (1 << kvm.page_shift) - n_gpa % (1 << kvm.page_shift)
    if first >= ACCESS:
        return ((n_gpa, ACCESS),)
    return (n_gpa, first), (n_gpa + first & EFFECTIVE_BITS, ACCESS - first)
