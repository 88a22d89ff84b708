"""Fault injection while a kernel is followed, through the stub: an rmap word, or code."""

from abc import ABC, abstractmethod
from enum import StrEnum

from nestscope.decoders.errors import NestscopeError
from nestscope.decoders.words.rmap import RMAP_LPID_SHIFT
from nestscope.plugin.differential.campaign.code import WORD
from nestscope.plugin.differential.campaign.defects import DEFECTS, Defect
from nestscope.plugin.differential.follow.follower import Follower

_WORD = 8
_OTHER_ENTRY = 1 << RMAP_LPID_SHIFT | 1 << 20
"""One bit of the LPID and one of the n_gpa: the entry then names another page."""


class Damage(StrEnum):
    """What is done to a single entry: its word becomes 0, or names another page."""

    DROP = "drop"
    FLIP = "flip"


class Injector(ABC):
    """Does its damage once, when `after` calls were checked and it is possible.

    `done` says what was done, in a sentence; "" before.
    """

    def __init__(self, after: int) -> None:
        self.after = after
        self.done = ""

    def __call__(self, follower: Follower) -> None:
        """To be called at each stop (`Follower`, `disturb`)."""
        if not self.done and follower.report.checked >= self.after:
            self.done = self.strike(follower)

    @abstractmethod
    def strike(self, follower: Follower) -> str:
        """Do it; return what was done, or "" if there is nothing to do it to yet."""

    def undo(self, follower: Follower) -> None:  # noqa: B027  what is data stays changed
        """Put code back as it was; the target is stopped for it."""


class WordInjector(Injector):
    """Changes one single entry. The kernel follows no wild pointer afterwards.

    `gfn` is that of the changed word.
    """

    def __init__(self, damage: Damage, after: int) -> None:
        super().__init__(after)
        self.damage = damage
        self.gfn: int | None = None

    def strike(self, follower: Follower) -> str:
        """Change the first single entry that there is."""
        memory = follower.kernel.memory
        for vm in follower.mirrors.vms.values():
            for slot in vm.kvm.memslots:
                for index, chain in slot.rmap.items():
                    address = slot.rmap_array + _WORD * index
                    if not isinstance(chain, int) or memory.u64(address) != chain:
                        continue
                    word = 0 if self.damage is Damage.DROP else chain ^ _OTHER_ENTRY
                    data = word.to_bytes(_WORD, follower.kernel.byteorder)
                    follower.session.write(memory.translate(address), data)
                    self.gfn = slot.base_gfn + index
                    return f"the rmap entry of gfn {self.gfn:#x} was changed ({self.damage})"
        return ""


class CodeInjector(Injector):
    """Patches instructions of a kernel function, as the seeded defects of campaigns do."""

    def __init__(self, defect: Defect, after: int) -> None:
        super().__init__(after)
        self.defect = defect
        self._before: dict[int, bytes] = {}

    def strike(self, follower: Follower) -> str:
        """Write the patches.

        Raises:
            NestscopeError: if the kernel's code has no place for this defect.
        """
        memory = follower.kernel.memory
        for patch in self.defect.patches(follower.kernel):
            place = memory.translate(patch.address)
            self._before[place] = memory.physical.read(place, WORD)
            follower.session.write(place, patch.word.to_bytes(WORD, follower.kernel.byteorder))
        return f"the kernel was patched: {self.defect.title}"

    def undo(self, follower: Follower) -> None:
        """Write back what was there."""
        follower.session.interrupt()
        while self._before:
            follower.session.write(*self._before.popitem())


def injector(name: str, after: int) -> Injector:
    """Return the injector of `drop`, `flip`, or a seeded defect in code by name.

    Raises:
        NestscopeError: if there is none of this name.
    """
    if name in set(Damage):
        return WordInjector(Damage(name), after)
    known = [defect for defect in DEFECTS.values() if defect.find is not None]
    for defect in known:
        if defect.name == name:
            return CodeInjector(defect, after)
    names = ", ".join([*Damage, *(defect.name for defect in known)])
    raise NestscopeError(f"--inject {name} is unknown: use one of {names}")
