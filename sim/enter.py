"""H_ENTER_NESTED: take a nested guest's state from guest memory and run it until it leaves."""

from nestscope.sim.constants import (
    H_AUTHORITY,
    H_BAD_MODE,
    H_NOT_AVAILABLE,
    H_P2,
    H_PARAMETER,
    MSR_HV,
    MSR_ME,
    MSR_TS_MASK,
    NR_CPUS,
    RESUME_GUEST,
    SRR1_LEV_1,
    TRAP_HDEC,
    TRAP_HDSI,
    TRAP_HEAI,
    TRAP_HISI,
    TRAP_SYSCALL,
)
from nestscope.sim.entry_state import (
    REGS_SIZE,
    STATE_SIZES,
    UNKNOWN,
    VERSION,
    Entry,
    left_regs,
    left_state,
    read_entry,
)
from nestscope.sim.errors import UnmodelledError
from nestscope.sim.events import Result
from nestscope.sim.fault import Fault, Outcome, nested_page_fault
from nestscope.sim.kvm import Kvm, NestedGuest
from nestscope.sim.nested import (
    get_nested,
    lock_tlb,
    put_nested,
    unlock_tlb,
    update_ptbl_cache,
)
from nestscope.sim.nested_cpu import (
    NESTED_MSR,
    VECTOR_DSEG,
    VECTOR_DSI,
    VECTOR_ISEG,
    NestedCpu,
    Wanted,
    nested_real_address,
)
from nestscope.sim.nested_memory import access_fault_of, fetch_fault, fetched, load, store
from nestscope.sim.steps import Steps

LONG_AGO, FAR_AHEAD = 1 << 20, 1 << 50
"""Values of `hdec_expiry` (ticks of 2 ns since the machine began) that are surely over,
surely not: what lies between is a matter of time."""

ATTEMPTS = 64
"""More faults of one instruction than any that ends needs."""

INSTRUCTIONS = 1000
"""More instructions than any program in guest memory that ends at once."""


def enter_nested_guest(
    kvm: Kvm, state_gpa: int, regs_gpa: int, *, limited: bool = False, vcpu: int = 0
) -> Steps[Result]:
    """Enter the nested guest that `hv_guest_state` at `state_gpa` names, run it, leave.

    `kvmhv_enter_nested_guest`, transition 23, check by check. `limited`: the VMM wrote a
    `hdec_expiry` one second ahead, so a nested guest that never leaves is taken out.
    """
    if kvm.l1_ptcr == 0:
        return not_entered(H_NOT_AVAILABLE)
    reader = kvm.srcu.read_lock()
    entry = read_state_and_regs(kvm, state_gpa, regs_gpa)
    kvm.srcu.read_unlock(reader)
    if entry is None:
        return not_entered(H_PARAMETER)
    if entry.version > VERSION:
        return not_entered(H_P2)
    if entry.vcpu_token >= NR_CPUS:
        return not_entered(H_PARAMETER)
    if entry.msr & MSR_TS_MASK:
        return not_entered(H_BAD_MODE)
    nested = yield from get_nested(kvm, entry.lpid, create=True)
    if nested is None:
        return not_entered(H_PARAMETER)
    if not nested.l1_gr_to_hr:
        yield from lock_tlb(kvm, nested)
        update_ptbl_cache(kvm, nested)
        unlock_tlb(kvm, nested)
    kvm.running[vcpu] = nested
    if entry.hdec_expiry is not None and entry.hdec_expiry < LONG_AGO:
        result = left(entry.cpu, TRAP_HDEC)
    else:
        require_predictable(entry, limited=limited)
        result = yield from run_nested(kvm, nested, entry.cpu, limited=limited)
    del kvm.running[vcpu]
    yield from put_nested(kvm, nested)
    state = kvm.read_guest(state_gpa, STATE_SIZES[entry.version])
    if state is None or not (yield from write_back(kvm, state_gpa, left_state(state))):
        return result._replace(ret=H_AUTHORITY)
    if not (yield from write_back(kvm, regs_gpa, left_regs(entry.cpu))):
        return result._replace(ret=H_AUTHORITY)
    return result


def read_state_and_regs(kvm: Kvm, state_gpa: int, regs_gpa: int) -> Entry | None:
    """`kvmhv_read_guest_state_and_regs`: None where one is not readable, or of no version.

    The kernel takes the size from the lower half of the version.
    """
    head = kvm.read_guest(state_gpa, 8)
    size = None if head is None else STATE_SIZES.get(int.from_bytes(head[:4], "little"))
    if size is None:
        return None
    state = kvm.read_guest(state_gpa, size)
    regs = kvm.read_guest(regs_gpa, REGS_SIZE) if state is not None else None
    if state is None or regs is None:
        return None
    return read_entry(state.ljust(STATE_SIZES[2], b"\0"), regs)


def require_predictable(entry: Entry, *, limited: bool) -> None:
    """Refuse what depends on the time, or on more of a processor than the model has."""
    if not limited and (entry.hdec_expiry is None or entry.hdec_expiry < FAR_AHEAD):
        raise UnmodelledError("whether the nested guest's time is up depends on the machine")
    if (entry.msr | MSR_ME) & ~MSR_HV != NESTED_MSR:
        raise UnmodelledError(f"a nested guest begins with MSR {entry.msr:#x}")


def write_back(kvm: Kvm, gpa: int, data: bytes) -> Steps[bool]:
    """`kvm_vcpu_write_guest`: page by page, each marked dirty; False where none can be written."""
    done = 0
    while done < len(data):
        part = min(len(data) - done, (1 << kvm.page_shift) - (gpa + done) % (1 << kvm.page_shift))
        hva = kvm.writable_hva(gpa + done)
        if hva is None or not (yield from kvm.memory.write(hva, data[done : done + part])):
            return False
        kvm.mark_page_dirty(gpa + done)
        done += part
    return True


def run_nested(kvm: Kvm, nested: NestedGuest, cpu: NestedCpu, *, limited: bool) -> Steps[Result]:
    """Run until the nested guest leaves; each storage interrupt goes to the host first."""
    yield "run the nested guest"
    kvm.touch(nested, "the nested guest runs")
    attempts: list[tuple[int, int, int]] = []
    for _ in range(INSTRUCTIONS):
        wanted, fault = next_access(kvm, nested, cpu)
        if wanted == "syscall":
            if cpu.msr is not None and kvm.facts.system_call_level_visible:
                cpu.msr |= SRR1_LEV_1
            return left(cpu, TRAP_SYSCALL)
        if wanted == "illegal":
            return left(cpu, TRAP_HEAI)
        if wanted == "loop":
            return timed_out(cpu, limited=limited)
        if fault is None:
            attempts.clear()
            continue
        outcome = yield from nested_page_fault(kvm, nested, fault)
        if outcome.queued:
            cpu.interrupt(VECTOR_DSI)
        elif outcome.resume != RESUME_GUEST:
            return exit_with(fault, outcome, cpu)
        attempts.append((cpu.nip, fault.n_gpa, nested.shadow.find(fault.n_gpa)[0]))
        if len(attempts) > ATTEMPTS:
            if attempts[-1] != attempts[-2]:
                raise UnmodelledError(f"when a nested guest stops at {cpu.nip:#x} is open")
            result = timed_out(cpu, limited=limited)
            # The flags of the last HISI may still be in the MSR.
            return result._replace(msr=None) if fault.kind == "fetch" else result
        yield "run the nested guest"
        kvm.touch(nested, "the nested guest runs")
    return timed_out(cpu, limited=limited)._replace(nip=None)


def next_access(kvm: Kvm, nested: NestedGuest, cpu: NestedCpu) -> tuple[str | None, Fault | None]:
    """Execute one instruction; return why it ends the run, or its storage interrupt."""
    n_gpa = nested_real_address(cpu.nip)
    if n_gpa is None:
        cpu.interrupt(VECTOR_ISEG)
        return None, None
    fault = fetch_fault(kvm, nested, n_gpa, cpu.nip)
    if fault is not None:
        return None, fault
    wanted = cpu.execute(fetched(kvm, nested, n_gpa))
    if not isinstance(wanted, Wanted):
        return wanted, None
    return None, make_access(kvm, nested, cpu, wanted)


def make_access(kvm: Kvm, nested: NestedGuest, cpu: NestedCpu, wanted: Wanted) -> Fault | None:
    """Let the processor load or store; return its storage interrupt, if any."""
    n_gpa = nested_real_address(wanted.address)
    if n_gpa is None:
        cpu.interrupt(VECTOR_DSEG)
        return None
    fault = access_fault_of(kvm, nested, wanted.kind, n_gpa, wanted.address)
    if fault is not None:
        return fault
    if wanted.kind == "store":
        store(kvm, nested, n_gpa, cpu.gpr[wanted.register].to_bytes(8, "little"))
        cpu.complete(wanted, 0)
    else:
        cpu.complete(wanted, int.from_bytes(load(kvm, nested, n_gpa), "little"))
    return None


def not_entered(ret: int) -> Result:
    """Report an error from before the entry: `hv_guest_state` stays as the guest wrote it."""
    return Result(ret=ret, nip=0, msr=NESTED_MSR, hdar=0, hdsisr=0, asdr=0)


def left(cpu: NestedCpu, trap: int) -> Result:
    """Report an exit that is no storage interrupt; `value` is r5."""
    value = known_value(cpu.gpr[5])
    return Result(
        ret=trap, value=value, r3=cpu.gpr[3], nip=cpu.nip, msr=cpu.msr, hdar=0, hdsisr=0, asdr=0
    )


def timed_out(cpu: NestedCpu, *, limited: bool) -> Result:
    """Report that the nested guest's time was up (`BOOK3S_INTERRUPT_NESTED_HV_DECREMENTER`)."""
    if not limited:
        raise UnmodelledError(f"a nested guest stays at {cpu.nip:#x} and its time is never up")
    return left(cpu, TRAP_HDEC)


def exit_with(fault: Fault, outcome: Outcome, cpu: NestedCpu) -> Result:
    """Report a storage interrupt to the guest (`save_hv_return_state`).

    An HISI has its flags in the MSR and leaves HDAR and HDSISR alone.
    """
    asdr, r3 = outcome.asdr, cpu.gpr[3]
    if fault.kind == "fetch":
        msr = None if cpu.msr is None else cpu.msr | outcome.dsisr
        return Result(TRAP_HISI, None, r3, cpu.nip, msr, hdar=0, hdsisr=0, asdr=asdr)
    return Result(TRAP_HDSI, None, r3, cpu.nip, cpu.msr, fault.ea, outcome.dsisr, asdr)


def known_value(value: int) -> int | None:
    """Return a value of 8 bytes that was loaded, None if only the machine knows it."""
    return None if value.to_bytes(8, "little") == UNKNOWN else value
