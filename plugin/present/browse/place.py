"""Where to jump to, as a user types it: `0x910000`, or `2:0x1000000` in nested guest 2."""

from typing import NamedTuple

from nestscope.decoders.errors import NestscopeError


class Place(NamedTuple):
    """A guest real address, or with `lpid` a nested real address of that nested guest."""

    lpid: int | None
    address: int


def parse_place(text: str) -> Place:
    """Parse an address, with `LPID:` before it for one of a nested guest.

    Raises:
        NestscopeError: naming what is wrong.
    """
    before, colon, after = text.strip().rpartition(":")
    try:
        lpid = int(before, 0) if colon else None
        address = int(after, 0)
    except ValueError:
        raise NestscopeError(f"{text!r} is no place: write 0x910000 or 2:0x1000000") from None
    if not 0 <= address < 1 << 64 or (lpid is not None and lpid < 0):
        raise NestscopeError(f"{text!r} is no place: an address has at most 64 bits")
    return Place(lpid, address)
