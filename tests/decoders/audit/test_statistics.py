"""Chain lengths, stale entries, and the memory that they hold."""

from nestscope.decoders.audit.audit import audit
from nestscope.decoders.audit.statistics import rmap_statistics
from nestscope.decoders.state import Problem
from tests.sim.states import KVM, PAGE, RWXRC, chain, guest, slot, state, vm

N = 0x100_0000
HOST = [(gfn * PAGE, 16, RWXRC | (gfn + 16) * PAGE) for gfn in range(4)]
CHAINS = slot(
    chain(0, (1, N), (2, N), (3, N), (4, N)),
    chain(1, (1, N + PAGE)),
    chain(3, (1, N + 3 * PAGE), (9, N)),
)


def leaf(n_gpa: int, gfn: int) -> tuple[int, int, int]:
    return n_gpa, 16, RWXRC | (gfn + 16) * PAGE


# Of gfn 0 only the entries of 1 and 3 are used; that of 2 leads to a leaf of another page.
GUESTS = [
    guest(1, [leaf(N, 0), leaf(N + PAGE, 1)]),
    guest(2, [leaf(N, 2)]),
    guest(3, [leaf(N, 0)]),
]
KNOWN = state(vm(host=HOST, memslots=[CHAINS], nested=GUESTS))


def test_they_are_counted() -> None:
    (found,) = rmap_statistics(KNOWN)
    assert (found.kvm, found.memslot) == (KVM, 0)
    assert (found.chains, found.entries, found.median) == (3, 7, 2)
    assert (found.longest, found.longest_gfn) == (4, 0)
    # Three nodes of the chain of four, one of the chain of two.
    assert (found.nodes, found.node_bytes) == (4, 64)
    # Stale: two of gfn 0 (one node would do), both of gfn 3 (none would).
    assert (found.stale, found.stale_bytes) == (4, 3 * 16)


def test_the_audit_tells_it_once_a_memslot() -> None:
    found = [each for each in audit(KNOWN) if each.rule == "rmap.stale"]
    assert [each.memslot for each in found] == [0]
    assert found[0].message == "4 of 7 entries are stale; their nodes hold 48 of 64 bytes"


def test_without_all_leaves_nothing_is_called_stale() -> None:
    gap = Problem("vms[0].nested[1].leaves", "unreadable")
    (found,) = rmap_statistics(state(*KNOWN.vms, problems=[gap]))
    assert (found.stale, found.stale_bytes, found.entries) == (None, None, 7)


def test_an_empty_memslot() -> None:
    (found,) = rmap_statistics(state(vm(memslots=[slot()])))
    assert (found.chains, found.longest, found.longest_gfn, found.stale) == (0, 0, None, 0)
