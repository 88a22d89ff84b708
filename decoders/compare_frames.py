"""Host frames of paired leaves, page by page, for the comparison of two States."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from nestscope.decoders.state import Columns
from nestscope.decoders.words.pte import PTE_RPN

Frames = NDArray[np.uint64]
Row = tuple[str, Frames, Frames, Frames]
"""Path, addresses, expected frames, observed frames."""


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
