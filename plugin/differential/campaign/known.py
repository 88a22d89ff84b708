"""Troubles that have an account under docs/findings: recognised and counted, never hidden.

A difference between model and kernel is never known: the model has to follow the
kernel, or the account has to say why it cannot.
"""

from dataclasses import dataclass, field

import numpy as np

from nestscope.decoders.state import State
from nestscope.plugin.differential.campaign.trouble import Trouble
from nestscope.sim.invariants import Violation


@dataclass(frozen=True, slots=True)
class Known:
    """A finding that is explained: its number under docs/findings, and in one sentence why."""

    number: str
    title: str


ZERO_ENTRY = Known("0001", "an entry that packs to 0 ends every walk of its chain")
MIXED_PAGES = Known("0002", "a remapped leaf mixes two host page numbers")
KNOWN = (ZERO_ENTRY, MIXED_PAGES)
"""What `Context.explain` and `explain_warning` can answer."""


@dataclass
class Context:
    """What a program showed so far that explains what it shows later.

    `hidden`: entries `(l1_lpid, n_gpa)` that stood at or behind an entry of 0 in a
    chain: the kernel's walks do not reach them (finding 0001).
    """

    hidden: set[tuple[int, int]] = field(default_factory=set)

    def learn(self, state: State) -> None:
        """Take in a State that was observed."""
        for vm in state.vms:
            for memslot in vm.memslots:
                words = memslot.rmap.entries
                if not np.any((words["l1_lpid"] == 0) & (words["n_gpa"] == 0)):
                    continue  # nearly always: making chains of it would cost more
                for chain in memslot.rmap:
                    entries = [(entry.l1_lpid, entry.n_gpa) for entry in chain.entries]
                    if (0, 0) in entries[:-1]:
                        self.hidden.update(entries[entries.index((0, 0)) :])

    def explain(
        self, violation: Violation, mixed: frozenset[tuple[int, int]] = frozenset()
    ) -> Known | None:
        """Return the known finding that explains a broken invariant, or None.

        `mixed` are the shadow leaves `(l1_lpid, n_gpa)` that the model, too, has mixed.
        """
        entry = (violation.l1_lpid, violation.n_gpa)
        if violation.rule in ("I1", "I2", "I3", "I4") and entry in mixed:
            return MIXED_PAGES
        if violation.rule == "I5":
            zero_entry = "packs to 0" in violation.message
            return ZERO_ENTRY if zero_entry or entry in self.hidden else None
        if violation.rule in ("I1", "I2", "I3", "I4") and entry in self.hidden:
            return ZERO_ENTRY
        return None


def explain_warning(trouble: Trouble) -> Known | None:
    """Return the known finding that explains a kernel WARNING, or None.

    `kvmppc_create_pte` warns where a present leaf is replaced by one of another page.
    """
    return MIXED_PAGES if "kvmppc_create_pte" in trouble.signature else None
