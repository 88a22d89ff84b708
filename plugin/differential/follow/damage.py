"""Fault injection while a kernel is followed: one rmap word is changed through the stub."""

from dataclasses import dataclass
from enum import StrEnum

from nestscope.decoders.words.rmap import RMAP_LPID_SHIFT
from nestscope.plugin.differential.follow.follower import Follower

_WORD = 8
_OTHER_ENTRY = 1 << RMAP_LPID_SHIFT | 1 << 20
"""One bit of the LPID and one of the n_gpa: the entry then names another page."""


class Damage(StrEnum):
    """What is done to a single entry: its word becomes 0, or names another page."""

    DROP = "drop"
    FLIP = "flip"


@dataclass
class Injector:
    """Changes one single entry, once, when `after` calls were checked and there is one.

    The kernel follows no wild pointer afterwards. `gfn` is that of the changed word.
    """

    damage: Damage
    after: int
    gfn: int | None = None

    def __call__(self, follower: Follower) -> None:
        """To be called at each stop (`Follower`, `disturb`)."""
        if self.gfn is not None or follower.report.checked < self.after:
            return
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
                    return
