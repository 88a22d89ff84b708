"""Seeded defects: what a campaign must find, put into a running kernel on purpose.

Code is patched once, after the boot, where a pattern of instructions is found in a
function (`code.py`); data is changed anew in every program (`strikes.py`). Both are
written through QEMU's gdbstub, which drops what TCG has translated of that code.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from nestscope.decoders.errors import NestscopeError
from nestscope.decoders.kernel.kernel import Kernel
from nestscope.plugin.differential.campaign import strikes
from nestscope.plugin.differential.campaign.code import (
    LI_R3_0,
    NOP,
    WORD,
    Find,
    Function,
    Patch,
    branches_after,
    calls_of,
    entry,
    read_function,
    with_mask_begin,
    words_like,
)
from nestscope.plugin.differential.campaign.station import Booted, Strike


@dataclass(frozen=True, slots=True)
class Defect:
    """A defect by name: a patch of the kernel's code, or a strike at its data.

    `function` is the kernel function in which `find` finds what to patch.
    """

    name: str
    title: str
    function: str = ""
    find: Find | None = None
    strike: Strike | None = None

    def prepare(self, booted: Booted) -> None:
        """Patch the code of a kernel that was just booted.

        Raises:
            NestscopeError: if its code has no place for this defect.
        """
        kernel = booted.machine.kernel
        kernel.memory.forget()
        patches = self.patches(kernel)
        if not patches:
            return
        with booted.debugger() as session:
            for patch in patches:
                address = kernel.memory.translate(patch.address)
                session.write(address, patch.word.to_bytes(WORD, kernel.byteorder))

    def patches(self, kernel: Kernel) -> list[Patch]:
        """Return what is to be put into the code of a kernel; nothing for a strike.

        Raises:
            NestscopeError: if its code has no place for this defect.
        """
        if self.find is None:
            return []
        patches = list(self.find(read_function(kernel, self.function)))
        if not patches:
            raise NestscopeError(
                f"the defect {self.name} has no place in {self.function} of {kernel.release}: "
                "its code looks otherwise, use another defect"
            )
        return patches


def _keep_chain(function: Function) -> "list[Patch]":
    """`llist_del_all` as `xchg`: store back what was loaded, so that the list stays."""
    return [
        Patch(store.address, store.word & ~(31 << 21) | load.word & 31 << 21)
        for load, store in pairwise(function)
        if load.mnemonic == "ldarx" and store.mnemonic.startswith("stdcx")
    ]


def _ignore_page(function: Function) -> "list[Patch]":
    """The test of the page after `xor` and `and` of page and mask: its branch is not taken."""
    found = []
    for at, each in enumerate(function):
        following = function[at + 1 : at + 4]
        if each.mnemonic == "xor" and following and following[0].mnemonic in ("and", "and."):
            found += [Patch(later.address, NOP) for later in following if later.mnemonic == "bne"]
    return found


def _grant_all(function: Function) -> "list[Patch]":
    """The `and` that takes from the host's leaf what the guest's does not grant: a move."""
    found = []
    for before, each in pairwise(function):
        if before.mnemonic == "rldimi" and each.mnemonic == "and":
            host = each.word >> 11 & 31
            # and ra,rs,rb becomes and ra,rb,rb
            found.append(Patch(each.address, each.word & ~(31 << 21) | host << 21))
    return found[:1]


def _low_bit_of_lpid(word: int) -> int:
    return with_mask_begin(word, 63)


DEFECTS: dict[str, Defect] = {
    defect.name: defect
    for defect in (
        Defect(
            "insert-skipped",
            "kvmppc_create_pte sets the shadow leaf without an rmap entry",
            "kvmppc_create_pte",
            calls_of("kvmhv_insert_nest_rmap"),
        ),
        Defect(
            "duplicate-inserted",
            "kvmhv_insert_nest_rmap does not look whether the entry is there",
            "kvmhv_insert_nest_rmap",
            branches_after("cmpldi", "0xfff", "ble"),
        ),
        Defect(
            "single-flag-lost",
            "kvmhv_insert_nest_rmap stores a single entry without its bit 0",
            "kvmhv_insert_nest_rmap",
            words_like("ori", r"^(r\d+), \1, 1$", lambda _: NOP),
        ),
        Defect(
            "remove-skipped",
            "kvmppc_unmap_pte leaves the rmap of the range alone",
            "kvmppc_unmap_pte",
            calls_of("kvmhv_remove_nest_rmap_range"),
        ),
        Defect(
            "remove-keeps-chain",
            "kvmhv_remove_nest_rmap_range does not take the list off its head",
            "kvmhv_remove_nest_rmap_range",
            lambda function: iter(_keep_chain(function)),
        ),
        Defect(
            "page-ignored",
            "kvmhv_remove_nest_rmap removes a shadow leaf of whatever page",
            "kvmhv_remove_nest_rmap_range",
            lambda function: iter(_ignore_page(function)),
        ),
        Defect(
            "wrong-mask",
            "kvmhv_remove_nest_rmap takes one bit of the LPID for all of it",
            "kvmhv_remove_nest_rmap_range",
            words_like("rldicl", "0xc, 0x34$", _low_bit_of_lpid),
        ),
        Defect(
            "rights-granted",
            "__kvmhv_nested_page_fault grants what the guest's leaf does not",
            "kvmhv_nested_page_fault",
            lambda function: iter(_grant_all(function)),
        ),
        Defect(
            "tlbie-address-skipped",
            "kvmhv_do_nested_tlbie does nothing for one address",
            "kvmhv_do_nested_tlbie",
            calls_of("kvmhv_emulate_tlbie_tlb_addr", LI_R3_0),
        ),
        Defect(
            "tlbie-guest-skipped",
            "kvmhv_do_nested_tlbie does nothing for a whole nested guest",
            "kvmhv_do_nested_tlbie",
            calls_of("kvmhv_emulate_tlbie_lpid"),
        ),
        Defect(
            "table-size-unchecked",
            "kvmhv_set_partition_table takes a table that is too large",
            "kvmhv_set_partition_table",
            branches_after("cmpldi", "0xc$", "bgt", within=1),
        ),
        Defect(
            "lpid-leaked",
            "kvmppc_free_lpid frees nothing",
            "kvmppc_free_lpid",
            entry(),
        ),
        Defect(
            "entry-lpid-flipped",
            "a bit of an rmap entry's LPID flips",
            strike=strikes.flip_entry_lpid,
        ),
        Defect("entry-dropped", "an rmap word becomes 0", strike=strikes.drop_entry),
        Defect("leaf-cleared", "a shadow leaf becomes 0", strike=strikes.clear_shadow_leaf),
        Defect(
            "leaf-executable",
            "a shadow leaf gets or loses the right to execute",
            strike=strikes.flip_shadow_execute,
        ),
    )
}


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
