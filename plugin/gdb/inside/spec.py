"""The commands: their arguments, options and help. Nothing here needs GDB."""

from typing import Any, Dict, List, NamedTuple, Sequence, Tuple

CHOICES = {
    "WORD": ("pte", "pde", "pate", "prte", "ptcr", "rmap"),
    "WHEN": ("insert", "remove", "both"),
}
"""Places that take a name; every other takes an expression."""

WORDS = CHOICES["WORD"]


class UsageError(Exception):
    """The arguments are not what the command takes: one sentence says why."""


class Option(NamedTuple):
    """An option `--name`; `metavar` is empty for one without a value."""

    name: str
    metavar: str
    help: str


class Verb(NamedTuple):
    """A command. `places` are its positional arguments, as they are named in the usage."""

    name: str
    summary: str
    places: Tuple[str, ...]
    options: Tuple[Option, ...]
    help: str


JSON = Option("json", "", "Print one JSON document.")
VM = Option("vm", "N", "Which VM: its number in `nested vms`, or the address of its struct kvm.")
LPID = Option("lpid", "N", "The nested guest (l1_lpid) that the address is of.")
GPA = Option("gpa", "", "PLACE is a guest real address, not a gfn.")

VERBS: Sequence[Verb] = (
    Verb("vms", "List the VMs of this host.", (), (JSON,), ""),
    Verb("slots", "List the memslots of a VM.", (), (VM, JSON), ""),
    Verb("guests", "List the nested guests of a VM.", (), (VM, JSON), ""),
    Verb(
        "chain",
        "Show the nested rmap chain of a guest page: which nested guests map it.",
        ("PLACE",),
        (GPA, VM, JSON),
        "PLACE is a guest frame number, or with --gpa a guest real address, as any "
        "expression.\nEntries are shown from head to tail. Entries may be stale: legal, until "
        "the list is emptied.\n\nExample: nested chain 0x90",
    ),
    Verb(
        "hostpage",
        "Show which guests and nested guests map a host page.",
        ("HPA",),
        (VM, JSON),
        "HPA is a host real address. The host's trees are searched for it, then the chains "
        "of the\nguest pages found are read, and each entry is looked up in its shadow tree."
        "\n\nExample: nested hostpage 0x2d50000",
    ),
    Verb(
        "walk",
        "Walk an address through every stage, level by level.",
        ("ADDRESS",),
        (LPID, VM, JSON),
        "ADDRESS is a guest real address, or with --lpid a nested real address: that is walked "
        "through\nthe guest's tree, the host's tree and the shadow tree.\n\n"
        "Example: nested walk 0x1000000 --lpid 2",
    ),
    Verb(
        "decode",
        "Decode a word, field by field.",
        ("WORD", "VALUE"),
        (JSON,),
        "WORD is one of pte, pde, pate, prte, ptcr, rmap; VALUE an expression, the word in host "
        "order.\n\nExample: nested decode pte 0xc000000002d50387",
    ),
    Verb(
        "stats",
        "Summarise the rmaps: chain lengths, stale entries, memory held.",
        (),
        (VM, JSON),
        "",
    ),
    Verb(
        "check",
        "Audit the nested MMU of every VM: is it consistent.",
        (),
        (JSON,),
        "The same rules as `nestscope check`. It reads everything, and says how far it is.",
    ),
    Verb(
        "break",
        "Stop where an entry gets into a chain, or out of one.",
        ("WHEN", "L1_LPID", "N_GPA"),
        (VM, JSON),
        "WHEN is insert, remove or both. The target stops at the return of the kernel's function, "
        "if the\nentry came or went; the chain before and after is shown. `delete N` ends it."
        "\n\nExample: nested break both 2 0x1000000",
    ),
    Verb("target", "Say what nestscope reads, and how it knows the kernel.", (), (JSON,), ""),
)


def find(name: str) -> Verb:
    """Return the verb of this name."""
    return next(verb for verb in VERBS if verb.name == name)


def usage(verb: Verb) -> str:
    """Return the line that says how a command is called."""
    options = [
        "[--{}{}]".format(option.name, " " + option.metavar if option.metavar else "")
        for option in verb.options
    ]
    return " ".join(["nested", verb.name, *verb.places, *options])


def documentation(verb: Verb) -> str:
    """Return the text that GDB's `help` shows; its first sentence is the summary."""
    lines = [verb.summary, "Usage: " + usage(verb)]
    if verb.help:
        lines += ["", verb.help]
    if verb.options:
        lines.append("")
        lines += ["  --{:<5} {}".format(option.name, option.help) for option in verb.options]
    return "\n".join(lines)


def parse(verb: Verb, words: Sequence[str]) -> Dict[str, Any]:
    """Return the arguments by name, as the texts that were written; a flag is True.

    Raises:
        UsageError: for an unknown option, a missing value, too many or too few arguments.
    """
    found: Dict[str, Any] = {}
    places: List[str] = []
    left = list(words)
    known = {"--" + option.name: option for option in verb.options}
    while left:
        word = left.pop(0)
        if not word.startswith("--"):
            places.append(word)
            continue
        name, equals, value = word.partition("=")
        option = known.get(name)
        if option is None or (equals and not option.metavar):
            raise UsageError("there is no option {}. Usage: {}".format(word, usage(verb)))
        if option.metavar and not equals:
            if not left:
                raise UsageError("{} needs a value. Usage: {}".format(name, usage(verb)))
            value = left.pop(0)
        found[option.name] = value if option.metavar else True
    if len(places) != len(verb.places):
        wanted = " ".join(verb.places) or "no argument"
        raise UsageError(
            "it takes {}, and {} came. Usage: {}".format(wanted, len(places), usage(verb))
        )
    for name, text in zip(verb.places, places):
        choices = CHOICES.get(name, (text,))
        if text not in choices:
            raise UsageError("{} is not one of {}".format(text, ", ".join(choices)))
        found[name.lower()] = text
    return found


def completions(verb: Verb, words: Sequence[str], last: str) -> List[str]:
    """Return what may follow `words`, beginning with `last`."""
    if last.startswith("-"):
        names = ["--" + option.name for option in verb.options]
        return [name for name in names if name.startswith(last) and name not in words]
    position = len([word for word in words if not word.startswith("-")])
    choices = CHOICES.get(verb.places[position], ()) if position < len(verb.places) else ()
    return [name for name in choices if name.startswith(last)]
