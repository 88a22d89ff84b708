"""H_ENTER_NESTED: run a nested guest's payload until it leaves."""

from nestscope.decoders.words.pte import PTE_RPN
from nestscope.sim.constants import (
    EFFECTIVE_BITS,
    H_NOT_AVAILABLE,
    H_PARAMETER,
    H_TOO_HARD,
    RESUME_GUEST,
    TRAP_HDSI,
    TRAP_HISI,
    TRAP_SYSCALL,
)
from nestscope.sim.errors import UnmodelledError
from nestscope.sim.events import Access, Result
from nestscope.sim.fault import Fault, Outcome, nested_page_fault
from nestscope.sim.hardware import access_fault
from nestscope.sim.instantiate import LOOP_LIMIT
from nestscope.sim.kvm import Kvm, NestedGuest
from nestscope.sim.layout import BLR, NIP_DONE, NIP_LOAD, NIP_RETURN, NIP_STORE
from nestscope.sim.nested import (
    get_nested,
    lock_tlb,
    put_nested,
    unlock_tlb,
    update_ptbl_cache,
)
from nestscope.sim.steps import Steps

VECTOR_DSI = 0x300
NESTED_MSR = 0x8000_0000_0000_1001
"""SF, ME and LE: 64-bit little-endian real mode."""


def enter_nested_guest(kvm: Kvm, access: Access) -> Steps[Result]:
    """Enter nested guest `l1_lpid`, make its one access, leave.

    `kvmhv_enter_nested_guest`, transition 23. What the guest writes into
    `hv_guest_state` is valid except for the LPID.
    """
    if kvm.l1_ptcr == 0:
        return not_entered(H_NOT_AVAILABLE)
    nested = yield from get_nested(kvm, access.l1_lpid, create=True)
    if nested is None:
        return not_entered(H_PARAMETER)
    if not nested.l1_gr_to_hr:
        yield from lock_tlb(kvm, nested)
        update_ptbl_cache(kvm, nested)
        unlock_tlb(kvm, nested)
    kvm.running.append(nested)
    result = yield from run_payload(kvm, nested, access)
    kvm.running.remove(nested)
    yield from put_nested(kvm, nested)
    return result


def not_entered(ret: int) -> Result:
    """Report an error from before the entry: `hv_guest_state` stays as the guest wrote it."""
    return Result(ret=ret, nip=0, msr=NESTED_MSR, hdar=0, hdsisr=0, asdr=0)


def run_payload(kvm: Kvm, nested: NestedGuest, access: Access) -> Steps[Result]:
    """Run the payload; each fault goes to the host, and then its instruction is tried again."""
    address, kind = access.address, access.kind
    if address & ~EFFECTIVE_BITS or address & (3 if kind == "fetch" else 7):
        raise UnmodelledError(f"{kind} at {address:#x}: unaligned or more than 52 bits")
    nip = 0
    for _ in range(LOOP_LIMIT):
        yield "run the nested guest"
        kvm.touch(nested, "the nested guest runs")
        fault = fetch_fault(kvm, nested, nip)
        if fault is None:
            if kind == "fetch" and nip == 0:
                require_payload(kvm, nested, nip)
                nip = address
                continue
            if kind == "fetch" and nip == address:
                require_blr(kvm, nested, address)
                nip = NIP_RETURN
                continue
            require_payload(kvm, nested, nip)
            if nip == VECTOR_DSI:
                return interrupted()
            if kind == "fetch":
                return done()
            nip = NIP_STORE if kind == "store" else NIP_LOAD
            fault = data_fault(kvm, nested, access)
            if fault is None:
                return done(finish_access(kvm, nested, access))
        outcome = yield from nested_page_fault(kvm, nested, fault)
        if outcome.queued:
            nip = VECTOR_DSI
        elif outcome.resume != RESUME_GUEST:
            return exit_with(fault, outcome, nip)
    raise UnmodelledError(f"nested guest {nested.l1_lpid} faults for ever at {address:#x}")


def fetch_fault(kvm: Kvm, nested: NestedGuest, nip: int) -> Fault | None:
    """Fetch an instruction with the hardware; return its storage interrupt, if any."""
    facts = kvm.facts
    dsisr = access_fault(nested.shadow, nip, "fetch", rc_by_hardware=facts.rc_by_hardware)
    if not dsisr:
        return None
    return Fault("fetch", nip, dsisr if facts.hisi_flags_visible else 0)


def data_fault(kvm: Kvm, nested: NestedGuest, access: Access) -> Fault | None:
    """Try the load or store with the hardware; return its storage interrupt, if any."""
    rc_by_hardware = kvm.facts.rc_by_hardware
    dsisr = access_fault(nested.shadow, access.address, access.kind, rc_by_hardware=rc_by_hardware)
    return Fault(access.kind, access.address, dsisr) if dsisr else None


def interrupted() -> Result:
    """Report that the nested guest took a data storage interrupt (`kvmppc_core_queue_...`).

    The payload has an `sc 1` at every vector. The MSR of the interrupt is the
    nested guest's own business.
    """
    return done()._replace(r3=VECTOR_DSI, nip=VECTOR_DSI + 8, msr=None)


def exit_with(fault: Fault, outcome: Outcome, nip: int) -> Result:
    """Report a storage interrupt to the guest (`save_hv_return_state`).

    An HISI has its flags in the MSR and leaves HDAR and HDSISR alone. Where the VMM
    must emulate an access first, `ret` is H_TOO_HARD: KVM_RUN ends with
    KVM_EXIT_MMIO and r3 of the guest is 0 (`kvmppc_pseries_do_hcall`).
    """
    asdr = outcome.asdr
    if fault.kind == "fetch":
        msr = NESTED_MSR | outcome.dsisr
        return Result(ret=TRAP_HISI, nip=nip, msr=msr, hdar=0, hdsisr=0, asdr=asdr)
    return Result(
        ret=TRAP_HDSI if outcome.mmio_gpa is None else H_TOO_HARD,
        nip=nip,
        msr=NESTED_MSR,
        hdar=fault.n_gpa,
        hdsisr=outcome.dsisr,
        asdr=asdr,
    )


def done(value: int | None = None) -> Result:
    """Report that the payload got to its last `sc 1`."""
    return Result(
        ret=TRAP_SYSCALL,
        value=value,
        r3=0,
        nip=NIP_DONE,
        msr=NESTED_MSR,
        hdar=0,
        hdsisr=0,
        asdr=0,
    )


def host_location(kvm: Kvm, nested: NestedGuest, n_gpa: int) -> tuple[int, int]:
    """Return the host frame and the offset in it that the shadow tree gives for `n_gpa`."""
    pte, shift = nested.shadow.find(n_gpa)
    address = pte & PTE_RPN | n_gpa & ((1 << (shift or kvm.page_shift)) - 1)
    return address >> kvm.page_shift, address & ((1 << kvm.page_shift) - 1)


def require_payload(kvm: Kvm, nested: NestedGuest, nip: int) -> None:
    """Refuse to predict what anything but the payload would do."""
    if host_location(kvm, nested, nip) != (kvm.payload_frame, nip):
        raise UnmodelledError(f"nested guest {nested.l1_lpid} runs what is not the payload")


def require_blr(kvm: Kvm, nested: NestedGuest, address: int) -> None:
    """Refuse to predict a jump to anything but a `blr`."""
    frame, offset = host_location(kvm, nested, address)
    if kvm.memory.read_frame(frame, offset, 4) != BLR:
        raise UnmodelledError(f"there is no `blr` at nested address {address:#x}")


def finish_access(kvm: Kvm, nested: NestedGuest, access: Access) -> int | None:
    """Make the access that the hardware let through; return what a load loaded."""
    frame, offset = host_location(kvm, nested, access.address)
    if frame == kvm.payload_frame:
        raise UnmodelledError(f"{access.kind} in the page of the payload")
    if access.kind == "store":
        kvm.memory.write_frame(frame, offset, access.value.to_bytes(8, "little"))
        return None
    return int.from_bytes(kvm.memory.read_frame(frame, offset, 8), "little")
