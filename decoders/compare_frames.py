"""Host frames of paired leaves: together they must give a one-to-one renaming."""

from collections.abc import Iterable, Mapping
from functools import reduce
from operator import or_

import numpy as np
from numpy.typing import NDArray

from nestscope.decoders.renaming import Difference, Frames, Renaming
from nestscope.decoders.state import Columns
from nestscope.decoders.words.pte import PTE_RPN

MAX_PAGES = 1 << 23
"""Base pages whose frames are compared at most: 512 GiB of 64 KiB, 32 GiB of 4 KiB. A damaged
tree can hold millions of leaves of 2**51 bytes."""

_MANY_BITS = 30

Paired = tuple[str, Columns, Columns]
"""Path of a tree, and its leaves on the expected and on the observed side, pair by pair."""

Row = tuple[str, Frames, Frames, Frames]
"""Path, addresses, expected frames, observed frames."""


def compare_frames(
    paired: Iterable[Paired], renaming: Renaming, page_shift: int
) -> list[Difference]:
    """Return where leaves that agree in all else break the renaming, which is updated."""
    rows, found = expanded(paired, page_shift)
    mixed: list[Row] = []
    if renaming.mixed:
        rows, mixed = without_mixed(rows, renaming.mixed)
    if not rows:
        return found
    frames = np.concatenate([row[2] for row in rows])
    names = np.concatenate([row[3] for row in rows])
    frames, first = np.unique(frames, return_index=True)
    chosen = names[first]
    owners, owner_at = np.unique(chosen, return_index=True)
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


def expanded(paired: Iterable[Paired], page_shift: int) -> tuple[list[Row], list[Difference]]:
    """Return the frames of paired leaves, base page by base page, and which are too many."""
    rows: list[Row] = []
    found: list[Difference] = []
    room = MAX_PAGES
    for path, left, right in paired:
        pages = pages_of(left, page_shift)
        total = int(pages.sum())
        if total > room:
            fits = int(np.searchsorted(np.cumsum(pages), room, side="right"))
            wanted = f"at most {MAX_PAGES} base pages in all"
            seen = f"more: those of the last {len(pages) - fits} leaves are not compared"
            found.append(Difference(f"{path}.host pages", wanted, seen))
            left, right, pages = left[:fits], right[:fits], pages[:fits]  # noqa: PLW2901
            total = int(pages.sum())
        room -= total
        rows.append((path, *base_frames(left, right, pages, page_shift)))
    return rows, found


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


def pages_of(leaves: Columns, page_shift: int) -> NDArray[np.int64]:
    """Return how many base pages each leaf has; 2**30 stands for more."""
    bits = leaves["shift"].astype(np.int64) - page_shift
    pages: NDArray[np.int64] = np.left_shift(1, np.minimum(np.maximum(bits, 0), _MANY_BITS))
    return pages


def base_frames(
    left: Columns, right: Columns, pages: NDArray[np.int64], page_shift: int
) -> tuple[Frames, Frames, Frames]:
    """Return `(address, expected frame, observed frame)` of every base page of paired leaves.

    A large leaf is expanded into its `pages`, so that a base page inside it must be
    renamed together with it.
    """
    shift = np.uint64(page_shift)
    ends = np.cumsum(pages)
    offset = (np.arange(pages.sum()) - np.repeat(ends - pages, pages)).astype(np.uint64)
    rpn = np.uint64(PTE_RPN)
    return (
        np.repeat(left["address"], pages) + (offset << shift),
        np.repeat((left["pte"] & rpn) >> shift, pages) + offset,
        np.repeat((right["pte"] & rpn) >> shift, pages) + offset,
    )
