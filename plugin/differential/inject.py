"""Fault injection: change one rmap word of the live kernel, to show that it is noticed."""

from collections.abc import Sequence
from contextlib import closing

from nestscope.decoders.errors import NestscopeError
from nestscope.decoders.kernel.byteorder import ByteOrder
from nestscope.decoders.state import Memslot
from nestscope.decoders.words.rmap import RMAP_LPID_SHIFT, RMAP_SINGLE
from nestscope.plugin.differential.session import LiveComparison
from nestscope.plugin.mi.memory import GdbMemory
from nestscope.plugin.mi.session import GdbSession

_WORD = 8
_OTHER_ENTRY = 1 << RMAP_LPID_SHIFT | 1 << 20
"""One bit of the LPID and one of the n_gpa: flipped, the entry names another page."""


def flip_rmap_word(live: LiveComparison) -> int:
    """Flip bits of one word of the live kernel's rmap array, through GDB.

    A single entry is changed where there is one, otherwise an empty word
    becomes an entry: the kernel follows no wild pointer afterwards.

    Returns:
        the gfn whose word was changed.

    Raises:
        NestscopeError: if the VM has no memslot.
    """
    memslots = [memslot for vm in live.machine.state().vms for memslot in vm.memslots]
    memslot, gfn, bits = _choose(memslots)
    word = (memslot.rmap_array or 0) + (gfn - memslot.base_gfn) * _WORD
    kernel = live.machine.kernel
    with live.machine.stopped():
        kernel.memory.forget()  # the array is younger than what was translated before
        address = kernel.memory.translate(word)
        if live.session is not None:
            _flip(live.session, address, bits, kernel.byteorder)
    if live.session is None:
        with GdbSession.connect(live.lab.gdb_socket, live.lab.kernel.vmlinux) as session:
            _flip(session, address, bits, kernel.byteorder)
    return gfn


def _choose(memslots: Sequence[Memslot]) -> tuple[Memslot, int, int]:
    """Return a memslot, one of its gfns, and the bits to flip in that gfn's word."""
    for memslot in memslots:
        for chain in memslot.rmap:
            if chain.form == "single":
                return memslot, chain.gfn, _OTHER_ENTRY
    for memslot in memslots:
        used = {chain.gfn for chain in memslot.rmap}
        for gfn in range(memslot.base_gfn, memslot.base_gfn + memslot.npages):
            if gfn not in used:
                return memslot, gfn, _OTHER_ENTRY | RMAP_SINGLE
    raise NestscopeError("no rmap word can be changed without breaking a list: inject later")


def _flip(session: GdbSession, address: int, bits: int, byteorder: ByteOrder) -> None:
    with closing(GdbMemory(session)) as memory:
        word = int.from_bytes(memory.read(address, _WORD), byteorder)
    session.write(address, (word ^ bits).to_bytes(_WORD, byteorder))
