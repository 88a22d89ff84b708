"""Every operation of the trace language: its verb, the version that brought it, its arguments.

The one place where an operation gets its words. The arguments of a verb are the fields of
its operation, in their order.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from nestscope.sim import events as ev
from nestscope.sim import operations as op
from nestscope.sim.trace_words import Words

_MOST_ARGUMENTS = 7
_SIZE_NAMES = {shift: name for name, shift in op.SHIFTS.items()}


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument: how it is taken from a line, and how it is written."""

    take: Callable[[Words], Any]
    show: Callable[[Any], str]


def hexadecimal(what: str) -> Argument:
    """An address, a length or a value."""
    return Argument(lambda words: words.number(what), lambda value: f"{value:#x}")


def decimal(what: str) -> Argument:
    """A number that is counted: an l1_lpid, a slot, flags."""
    return Argument(lambda words: words.number(what), str)


def either(yes: str, no: str, take: Callable[[Words], bool]) -> Argument:
    """One of two words."""
    return Argument(take, lambda value: yes if value else no)


LPID, N_GPA, GPA = decimal("l1_lpid"), hexadecimal("n_gpa"), hexadecimal("gpa")
SLOT, VALUE, LENGTH = decimal("the slot"), hexadecimal("the value"), hexadecimal("the length")
FLAGS = decimal("the flags")
SIZE = Argument(lambda words: words.shift(), lambda shift: _SIZE_NAMES[shift])
RIGHTS = Argument(lambda words: words.permissions(), op.permission_letters)
WRITABLE = either("rw", "ro", Words.writable)
ON = either("on", "off", Words.on)
NUMBERS = Argument(
    lambda words: words.numbers("an argument", _MOST_ARGUMENTS),
    lambda values: " ".join(f"{value:#x}" for value in values),
)


@dataclass(frozen=True, slots=True)
class Verb:
    """An operation's word, the version of the language it needs, its class and arguments.

    With `names` the arguments are words `name=value`, in any order.
    """

    word: str
    version: int
    operation: type
    arguments: tuple[Argument, ...] = ()
    names: tuple[str, ...] = ()

    def parse(self, words: Words) -> op.Operation:
        """Take the arguments from a line.

        Raises:
            TraceError: at the first word that is wrong.
        """
        values = (
            words.fields(self.word, self.names)
            if self.names
            else [argument.take(words) for argument in self.arguments]
        )
        made: op.Operation = self.operation(*values)
        return made

    def format(self, operation: op.Operation) -> str:
        """Return the line of an operation."""
        values = [getattr(operation, field.name) for field in fields(operation)]
        shown = [each.show(value) for each, value in zip(self.arguments, values, strict=True)]
        if self.names:
            shown = [f"{name}={value}" for name, value in zip(self.names, shown, strict=True)]
        return " ".join(each for each in (self.word, *shown) if each)


_NUMBER, _ADDRESS = decimal("a number"), hexadecimal("an address")
_TLBIE = ("ric", "prs", "r", "is", "lpid", "ap", "epn")
_RPTI = ("lpid", "target", "type", "pages", "start", "end")

VERBS = {
    verb.word: verb
    for verb in (
        Verb("map", 1, op.Map, (LPID, N_GPA, GPA, SIZE, RIGHTS)),
        Verb("unmap", 1, op.Unmap, (LPID, N_GPA)),
        Verb("load", 1, op.Load, (LPID, N_GPA)),
        Verb("store", 1, op.Store, (LPID, N_GPA, VALUE)),
        Verb("fetch", 1, op.Fetch, (LPID, N_GPA)),
        Verb("write", 1, op.WriteData, (GPA, VALUE)),
        Verb("code", 1, op.WriteCode, (GPA,)),
        Verb("ptcr", 1, op.SetPartitionTable, (hexadecimal("the PTCR"),)),
        Verb("tlbie", 1, op.Tlbie, (*[_NUMBER] * 6, _ADDRESS), _TLBIE),
        Verb("discard", 1, op.DiscardMemory, (GPA, LENGTH)),
        Verb("drop", 1, op.Drop, (LPID,)),
        Verb("rpti", 2, op.RptInvalidate, (_NUMBER, *[_ADDRESS] * 5), _RPTI),
        Verb(
            "slot",
            2,
            ev.AddSlot,
            (SLOT, GPA, hexadecimal("the size"), hexadecimal("the VMM's address"), FLAGS),
        ),
        Verb("unslot", 2, ev.DeleteSlot, (SLOT,)),
        Verb("moveslot", 2, ev.MoveSlot, (SLOT, GPA)),
        Verb("slotflags", 2, ev.SetSlotFlags, (SLOT, FLAGS)),
        Verb("dirtylog", 2, ev.GetDirtyLog, (SLOT,)),
        Verb(
            "cleardirty",
            2,
            ev.ClearDirtyLog,
            (SLOT, decimal("the first page"), decimal("the number of pages")),
        ),
        Verb("migrate", 2, ev.Migrate, (GPA, LENGTH)),
        Verb("collapse", 2, ev.CollapseHuge, (GPA, SIZE)),
        Verb("split", 2, ev.SplitHuge, (GPA, SIZE)),
        Verb("protect", 2, ev.Protect, (GPA, LENGTH, WRITABLE)),
        Verb("age", 2, ev.Age, (GPA, LENGTH)),
        Verb("testage", 2, ev.TestAge, (GPA,)),
        Verb("destroy", 2, ev.DestroyVm),
        Verb("hpt", 2, ev.SwitchToHpt),
        Verb("word", 3, op.WriteWord, (GPA, VALUE)),
        Verb("hcall", 3, op.RawHcall, (hexadecimal("the hypercall"), NUMBERS)),
        Verb("remap", 3, ev.Remap, (GPA, LENGTH)),
        Verb("create", 3, op.CreateGuest),
        Verb("htab", 3, ev.AllocateHtab, (decimal("the order"),)),
        Verb("radix", 3, ev.SwitchToRadix),
        Verb("thp", 4, ev.AdviseHuge, (GPA, LENGTH, ON)),
        Verb("fork", 4, ev.Fork),
        Verb("clearrefs", 5, ev.ClearRefs, (decimal("what to clear"),)),
        Verb("hugetlb", 5, ev.MapHugetlb, (GPA, LENGTH, SIZE)),
    )
}
"""The verbs of the language by their words, the oldest first."""

VERB_OF = {verb.operation: verb for verb in VERBS.values()}
"""The verb of each operation's class."""
