"""Known findings: recognised by what the kernel's State showed, and nothing else with them."""

from nestscope.decoders.state import Chains, KernelInfo, Memslot, Source, State, Vm
from nestscope.plugin.differential.campaign.known import (
    MIXED_PAGES,
    ZERO_ENTRY,
    Context,
    explain_warning,
)
from nestscope.plugin.differential.campaign.trouble import of_warning
from nestscope.sim.invariants import Violation


def state(*chains: list[tuple[int, int]]) -> State:
    rows = [(gfn, min(len(chain), 2), chain) for gfn, chain in enumerate(chains)]
    memslot = Memslot(0, 0, 64, 0x1000, 0, 0x2000, Chains.build(rows))
    return State(
        Source("ram", "x"), KernelInfo("6.12", 16), (Vm(0, 1, True, False, 0, (memslot,)),)
    )


def violation(rule: str, l1_lpid: int, n_gpa: int, message: str = "broken") -> Violation:
    return Violation(rule, "", "error", message, l1_lpid=l1_lpid, n_gpa=n_gpa)


def test_entries_behind_a_zero_entry_are_0001() -> None:
    context = Context()
    context.learn(state([(3, 0x10000)], [(2, 0), (0, 0), (1, 0x20000)]))
    for rule in ("I1", "I2", "I4", "I5"):
        assert context.explain(violation(rule, 0, 0)) == ZERO_ENTRY
        assert context.explain(violation(rule, 1, 0x20000)) == ZERO_ENTRY
        assert context.explain(violation(rule, 2, 0)) is None
        assert context.explain(violation(rule, 3, 0x10000)) is None


def test_a_zero_entry_at_the_tail_explains_nothing() -> None:
    context = Context()
    context.learn(state([(2, 0), (0, 0)], [(0, 0)]))
    assert context.explain(violation("I1", 0, 0)) is None


def test_other_rules_are_never_explained() -> None:
    context = Context()
    context.learn(state([(2, 0), (0, 0), (1, 0)]))
    assert context.explain(violation("I6", 1, 0)) is None


def test_only_the_warning_of_the_leaf_that_is_replaced_is_known() -> None:
    at = "WARNING: CPU: 0 PID: 7 at arch/powerpc/kvm/book3s_64_mmu_radix.c:{} {}+0x1/0x2 [kvm_hv]"
    assert explain_warning(of_warning(at.format(771, "kvmppc_create_pte"), "")) == MIXED_PAGES
    assert explain_warning(of_warning(at.format(500, "kvmppc_unmap_pte"), "")) is None
