"""What the audit says: findings, and the rules that make them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from nestscope.decoders.audit.view import StateView

ERROR = "error"
"""The kernel does something wrong because of it, or has done so."""

WARNING = "warning"
"""A healthy kernel does not get there, but nothing is lost by it yet."""

INFO = "info"
"""Legal, and worth knowing."""


class Found(NamedTuple):
    """One place where a rule does not hold. Members that do not apply are None.

    `message` says what is wrong there. `kvm`: address of `struct kvm`; `memslot`: its
    id; `gfn`: absolute; `n_gpa`: bytes; `address`: see each rule.
    """

    message: str
    kvm: int | None = None
    memslot: int | None = None
    gfn: int | None = None
    l1_lpid: int | None = None
    n_gpa: int | None = None
    address: int | None = None


class Finding(NamedTuple):
    """A broken rule, with the names of `check --json`.

    `rule`: stable id; `name`: what the rule says in few words; `severity`: "error",
    "warning" or "info"; the rest as in `Found`.
    """

    rule: str
    name: str
    severity: str
    message: str
    kvm: int | None = None
    memslot: int | None = None
    gfn: int | None = None
    l1_lpid: int | None = None
    n_gpa: int | None = None
    address: int | None = None


Check = Callable[[StateView], Iterator[Found]]


@dataclass(frozen=True)
class Rule:
    """A rule: stable id, what it says in few words, and what finds where it does not hold.

    `consequence`: what the kernel does wrong because of it. `address`: what the address
    of its findings is.
    """

    id: str
    name: str
    severity: str
    consequence: str
    address: str
    check: Check

    @property
    def family(self) -> str:
        """The part of the id before the dot: `I5` of `I5.cycle`."""
        return self.id.partition(".")[0]

    @property
    def description(self) -> str:
        """The check's docstring as one paragraph."""
        return " ".join((self.check.__doc__ or "").split())

    def finding(self, found: Found) -> Finding:
        """Return the finding that a place makes."""
        return Finding(self.id, self.name, self.severity, *found)


def rule(
    id_: str, name: str, *, severity: str = ERROR, consequence: str, address: str = "none"
) -> Callable[[Check], Rule]:
    """Make the decorated check a `Rule`; its docstring is the rule's text."""

    def declared(check: Check) -> Rule:
        return Rule(id_, name, severity, consequence, address, check)

    return declared
