"""A huge page that comes apart: its parts become base pages of their own."""

from typing import TYPE_CHECKING

from nestscope.sim.constants import PMD_SHIFT
from nestscope.sim.frames import ZERO_FRAME
from nestscope.sim.steps import Steps

if TYPE_CHECKING:
    from nestscope.sim.pages import HostPages


def dissolve(memory: "HostPages", page: int, frame: int) -> Steps[None]:
    """Make base pages of their own of the folio that `frame`, mapped at `page`, is a part of.

    `__split_huge_page`: all of it is unmapped (`unmap_folio`) and mapped again
    (`remap_page`). Since b1f202060afe a part that holds only zeros becomes the shared
    zero page then (`try_to_map_unused_to_zeropage`), mapped read-only.
    """
    first = memory.parts.get(frame)
    if first is None:
        return
    base = page - (frame - first)
    start = base << memory.page_shift
    yield from memory.before(start, start + (1 << PMD_SHIFT))
    for i in range(1 << PMD_SHIFT - memory.page_shift):
        part = first + i
        memory.parts.pop(part, None)
        mapped = memory.pages.get(base + i) == part
        if memory.habits.split_to_zero_page and mapped and memory.is_zero(part):
            memory.map_page(base + i, ZERO_FRAME)
        elif mapped:
            memory.pass_migration(base + i)
    yield from memory.after(start, start + (1 << PMD_SHIFT))
