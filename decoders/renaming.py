"""What a comparison of two States says, and what it remembers from one to the next."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.uint64]
"""Numbers of host frames: real address >> page_shift."""


class Difference(NamedTuple):
    """`path` leads into the State; the values are text for people."""

    path: str
    expected: str
    observed: str

    def __str__(self) -> str:
        return f"{self.path}: expected {self.expected}, observed {self.observed}"


@dataclass
class Renaming:
    """The one-to-one renaming of host addresses that one run has established.

    Kept between comparisons, it also notices a page that stays mapped but
    changes its host frame without the expected side having changed it.
    `frames` and `names` are parallel: expected frame (ascending), observed frame.
    `known` keeps the last observed number of every expected frame of the run. `mixed`
    are expected frames that are no page of their own: their number is the OR of the
    numbers of others (docs/findings/0002), so they are left out of the one-to-one part.
    """

    frames: Frames = field(default_factory=lambda: np.empty(0, np.uint64))
    names: Frames = field(default_factory=lambda: np.empty(0, np.uint64))
    objects: dict[tuple[str, int], int] = field(default_factory=dict)
    known: dict[int, int] = field(default_factory=dict)
    mixed: Mapping[int, tuple[int, ...]] = field(default_factory=dict)

    def lookup(self, frames: Frames, default: Frames) -> Frames:
        """Return the names that `frames` had before, `default` where they had none."""
        if not len(self.frames):
            return default
        at = np.minimum(np.searchsorted(self.frames, frames), len(self.frames) - 1)
        return np.where(self.frames[at] == frames, self.names[at], default)
