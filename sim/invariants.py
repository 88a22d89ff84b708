"""The invariants I1 to I6 of the nested rmap: the audit's rules of these families.

Shared by the model and by what is read from real memory. An rmap entry without a
shadow leaf is legal (stale): the kernel never removes a single entry. A shadow leaf
without an entry never is: nothing would find it when its host page goes away.

Each violation has the invariant ("I5") as its rule, not the rule of the audit that found
it ("I5.cycle").
"""

from nestscope.decoders.audit.audit import MAX_TOLD, RULES, audit
from nestscope.decoders.audit.finding import ERROR, Finding
from nestscope.decoders.state import State, Vm

__all__ = ["INVARIANTS", "MAX_TOLD", "Violation", "violations", "vms_in_transition"]

Violation = Finding

INVARIANTS = ("I1", "I2", "I3", "I4", "I5", "I6")

_RULES = tuple(rule for rule in RULES if rule.family in INVARIANTS and rule.severity == ERROR)


def violations(state: State, *, rc_by_hardware: bool | None = None) -> list[Violation]:
    """Return every broken invariant, in their order.

    `rc_by_hardware`: as of `audit`.
    """
    found = audit(state, rc_by_hardware=rc_by_hardware, rules=_RULES)
    return [each._replace(rule=each.rule.partition(".")[0]) for each in found]


def vms_in_transition(state: State) -> tuple[Vm, ...]:
    """Return the VMs that are not judged because their mmu_lock is held."""
    return tuple(vm for vm in state.vms if vm.mmu_lock_held)
