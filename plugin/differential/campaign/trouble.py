"""A trouble: what a campaign looks for. Its signature is the same wherever its cause is."""

import re
from dataclasses import dataclass
from typing import Literal

from nestscope.decoders.compare import Difference
from nestscope.decoders.words.pte import (
    PTE_C,
    PTE_EAA_EXECUTE,
    PTE_EAA_READ,
    PTE_EAA_WRITE,
    PTE_R,
    PTE_RPN,
)
from nestscope.plugin.differential.campaign.actions import signed
from nestscope.plugin.qemu.errors import LabFailure
from nestscope.sim.invariants import Violation
from nestscope.sim.operations import Operation

TroubleKind = Literal[
    "difference", "invariant", "warning", "oops", "panic", "died", "hung", "agent"
]

_KEY = re.compile(r"\[[^\]]*\]")
_NUMBER = re.compile(r"\b(?:0x[0-9a-fA-F]+|\d+)\b")
_LEAF = re.compile(r"pte (0x[0-9a-f]+) shift (\d+)")
_ENTRY = re.compile(r"\((\d+), (0x[0-9a-f]+)\)")
_FUNCTION = re.compile(r"\b([A-Za-z_][\w.]*)\+0x[0-9a-f]+/0x[0-9a-f]+")
_FILE = re.compile(r"\bat (\S+?):\d+")
_LEAF_BITS = {
    "R": PTE_R,
    "C": PTE_C,
    "read": PTE_EAA_READ,
    "write": PTE_EAA_WRITE,
    "execute": PTE_EAA_EXECUTE,
}


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that must not be.

    `signature` identifies the cause as well as text can: the kind, the place in the
    State without its numbers, what is wrong there, and the action after which it is
    (`actions`); for the kernel's own messages the kernel function. `message` is one line
    for people. `differences` and `violations` are everything seen at that step;
    `console` the console's end.
    """

    kind: TroubleKind
    signature: str
    message: str
    differences: tuple[Difference, ...] = ()
    violations: tuple[Violation, ...] = ()
    console: str = ""


def of_differences(
    differences: tuple[Difference, ...],
    operation: Operation,
    violations: tuple[Violation, ...] = (),
) -> Trouble:
    """Return the trouble of a step whose results or States differ.

    `violations`: invariants that its State breaks as well, which no finding explains.
    """
    first = differences[0]
    place = place_of(first.path)
    # Which page it is instead is chance; `decoders.compare` has three ways to say so.
    page = place.endswith(".host page")
    shape = "another one" if page else shape_of(first.expected, first.observed)
    signature = signed(f"difference {place}: {shape}", operation)
    return Trouble("difference", signature, str(first), differences, violations)


def of_violation(
    violation: Violation, others: tuple[Violation, ...], operation: Operation
) -> Trouble:
    """Return the trouble of a broken invariant; `others` were broken at the same step."""
    text = _NUMBER.sub("N", violation.message.split(" (gfn", 1)[0])
    signature = signed(f"invariant {violation.rule}: {text}", operation)
    return Trouble("invariant", signature, violation.message, violations=others)


def of_warning(headline: str, console: str) -> Trouble:
    """Return the trouble of a kernel WARNING."""
    return Trouble("warning", f"warning {_where(headline)}", headline, console=console)


def of_failure(failure: LabFailure) -> Trouble:
    """Return the trouble of a machine that failed."""
    where = _faulting_function(failure.tail) if failure.kind in ("oops", "panic") else ""
    what = where or _NUMBER.sub("N", failure.what.split(";", 1)[0])
    return Trouble(
        failure.kind,
        f"{failure.kind} {what}",
        f"{failure.kind}: {failure.what}",
        console=failure.tail,
    )


def of_lost(message: str) -> Trouble:
    """Return the trouble of a program that ends, every time, the job that runs it."""
    return Trouble("died", f"died {_NUMBER.sub('N', message.split(';', 1)[0])}", message)


def of_agent_error(message: str) -> Trouble:
    """Return the trouble of an operation that neither the kernel nor the agent could do."""
    return Trouble("agent", f"agent {_NUMBER.sub('N', message)}", message)


def place_of(path: str) -> str:
    """Return a path into the State without its numbers: `vms.nested.leaves`."""
    return _KEY.sub("", path)


def shape_of(expected: str, observed: str) -> str:
    """Return in few words how two values of a difference differ, without their numbers."""
    left, right = _LEAF.fullmatch(expected), _LEAF.fullmatch(observed)
    if left and right:
        return _leaf_shape(left, right)
    if left or right:
        return f"leaf {'missing' if left else 'too many'}"
    if _ENTRY.search(expected) or _ENTRY.search(observed):
        return _chain_shape(_ENTRY.findall(expected), _ENTRY.findall(observed))
    return f"{_NUMBER.sub('N', expected)} expected, {_NUMBER.sub('N', observed)} observed"


def _leaf_shape(left: re.Match[str], right: re.Match[str]) -> str:
    if left[2] != right[2]:
        return "leaf of another size"
    xor = int(left[1], 16) ^ int(right[1], 16)
    bits = [name for name, bit in _LEAF_BITS.items() if xor & bit]
    if xor & ~PTE_RPN & ~sum(_LEAF_BITS.values()):
        bits.append("other bits")
    return f"leaf differs in {', '.join(bits) or 'its page'}"


def _chain_shape(left: list[tuple[str, str]], right: list[tuple[str, str]]) -> str:
    if sorted(left) == sorted(right):
        return "entries in another form or order"
    missing, extra = set(left) - set(right), set(right) - set(left)
    if missing and extra:
        return "entries differ"
    if missing:
        return "entry missing"
    return "entry too many" if extra else "entry repeated another number of times"


def _where(headline: str) -> str:
    """Return function and file of a WARNING's headline, without line and CPU."""
    function, file = _FUNCTION.search(headline), _FILE.search(headline)
    names = [found[1] for found in (function, file) if found]
    return " ".join(names) or _NUMBER.sub("N", headline)


def _faulting_function(console: str) -> str:
    """Return the function of the NIP line of an oops, or ""."""
    for line in console.splitlines():
        if "NIP [" in line or line.lstrip().startswith("NIP "):
            found = _FUNCTION.search(line)
            if found:
                return found[1]
    return ""
