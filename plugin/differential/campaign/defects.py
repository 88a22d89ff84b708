"""Seeded defects: what a campaign must find, put into a running kernel on purpose."""

from collections.abc import Sequence
from dataclasses import dataclass

from nestscope.decoders.errors import NestscopeError
from nestscope.plugin.differential.campaign.station import Booted


@dataclass(frozen=True, slots=True)
class Defect:
    """A defect by name. `strikes` says whether it acts in every program anew."""

    name: str
    title: str
    strikes: bool = False

    def prepare(self, booted: Booted) -> None:
        """Put the defect into a kernel that was just booted."""

    def strike(self, booted: Booted, number: int) -> None:
        """Put the defect into the kernel's data at step `number` of a program."""


DEFECTS: dict[str, Defect] = {}


def find_defects(names: Sequence[str]) -> list[Defect]:
    """Return defects by name.

    Raises:
        NestscopeError: if there is none of a name.
    """
    for name in names:
        if name not in DEFECTS:
            raise NestscopeError(
                f"there is no seeded defect '{name}': use one of {', '.join(DEFECTS)}"
            )
    return [DEFECTS[name] for name in names]
