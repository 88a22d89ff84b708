"""Host frames of paired leaves: together they must give a one-to-one renaming."""

from collections.abc import Iterable, Mapping
from functools import reduce
from operator import or_

import numpy as np

from nestscope.decoders.renaming import Difference, Frames, Renaming
from nestscope.decoders.state import Columns
from nestscope.decoders.words.pte import PTE_RPN

Paired = tuple[str, Columns, Columns]
"""Path of a tree, and its leaves on the expected and on the observed side, pair by pair."""

Row = tuple[str, Frames, Frames, Frames]
"""Path, addresses, expected frames, observed frames."""


def compare_frames(
    paired: Iterable[Paired], renaming: Renaming, page_shift: int
) -> list[Difference]:
    """Return where leaves that agree in all else break the renaming, which is updated."""
    rows: list[Row] = [
        (path, *base_frames(left, right, page_shift)) for path, left, right in paired
    ]
    mixed: list[Row] = []
    if renaming.mixed:
        rows, mixed = without_mixed(rows, renaming.mixed)
    if not rows:
        return []
    frames = np.concatenate([row[2] for row in rows])
    names = np.concatenate([row[3] for row in rows])
    frames, first = np.unique(frames, return_index=True)
    chosen = names[first]
    owners, owner_at = np.unique(chosen, return_index=True)
    found: list[Difference] = []
    for path, addresses, expected, observed in rows:
        name = chosen[np.searchsorted(frames, expected)]
        owner = frames[owner_at[np.searchsorted(owners, name)]]
        before = renaming.lookup(expected, name)
        wrong = (name != observed) | (owner != expected) | (before != name)
        for at in np.flatnonzero(wrong).tolist():
            where = f"{path}[{addresses[at]:#x}].host page"
            seen = _real(observed[at], page_shift)
            if name[at] != observed[at]:
                wanted = _real(name[at], page_shift)
            elif before[at] != name[at]:
                wanted = f"{_real(before[at], page_shift)} as before"
            else:
                wanted, seen = "a host page of its own", f"{seen}, also used elsewhere"
            found.append(Difference(where, wanted, seen))
    renaming.frames, renaming.names = frames, chosen
    renaming.known.update(zip(frames.tolist(), chosen.tolist(), strict=True))
    for row in mixed:
        found += mixed_frames(row, renaming, page_shift)
    return found


def mixed_frames(row: Row, renaming: Renaming, page_shift: int) -> list[Difference]:
    """Return the mixed frames that are not the OR of their members' numbers, where known."""
    path, addresses, expected, observed = row
    known = renaming.known
    found = []
    for address, frame, name in zip(
        addresses.tolist(), expected.tolist(), observed.tolist(), strict=True
    ):
        members = renaming.mixed[frame]
        number = reduce(or_, (known.get(member, name) for member in members))
        if number != name:
            text = " | ".join(_real(known.get(member, 0), page_shift) for member in members)
            wanted = f"{_real(number, page_shift)} ({text})"
            where = f"{path}[{address:#x}].host page"
            found.append(Difference(where, wanted, _real(name, page_shift)))
    return found


def _real(frame: "np.uint64 | int", page_shift: int) -> str:
    return hex(int(frame) << page_shift)


def without_mixed(
    rows: list[Row], mixed: Mapping[int, tuple[int, ...]]
) -> tuple[list[Row], list[Row]]:
    """Part rows of frames into those of pages of their own and those of mixed frames."""
    numbers = np.fromiter(mixed, np.uint64)
    plain, other = [], []
    for path, addresses, expected, observed in rows:
        is_mixed = np.isin(expected, numbers)
        plain.append((path, addresses[~is_mixed], expected[~is_mixed], observed[~is_mixed]))
        if is_mixed.any():
            other.append((path, addresses[is_mixed], expected[is_mixed], observed[is_mixed]))
    return plain, other


def base_frames(left: Columns, right: Columns, page_shift: int) -> tuple[Frames, Frames, Frames]:
    """Return `(address, expected frame, observed frame)` of every base page of paired leaves.

    A large leaf is expanded, so that a base page inside it must be renamed
    together with it.
    """
    shift = np.uint64(page_shift)
    pages = np.left_shift(1, np.maximum(left["shift"].astype(np.int64) - page_shift, 0))
    ends = np.cumsum(pages)
    offset = (np.arange(pages.sum()) - np.repeat(ends - pages, pages)).astype(np.uint64)
    rpn = np.uint64(PTE_RPN)
    return (
        np.repeat(left["address"], pages) + (offset << shift),
        np.repeat((left["pte"] & rpn) >> shift, pages) + offset,
        np.repeat((right["pte"] & rpn) >> shift, pages) + offset,
    )
