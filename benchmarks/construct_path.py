"""The same State word by word through the Construct definitions: what bulk is compared with."""

from typing import Any

from nestscope.decoders.kernel.kernel import Kernel
from nestscope.decoders.kernel.memory import ROOT_BITS, TREE_BITS
from nestscope.decoders.kernel.vms import VmReader
from nestscope.decoders.state import State
from nestscope.decoders.words.pde import PDE, PDE_NLB_SHIFT
from nestscope.decoders.words.pte import PTE
from nestscope.decoders.words.rmap import (
    RMAP_NESTED,
    RMAP_NESTED_SIZE,
    RMAP_WORD,
    Empty,
    ListPointer,
)

_ZERO = bytes(8)
_PIECE = 1 << 20

LeafRows = list[tuple[int, int, int]]
ChainRows = list[tuple[int, list[tuple[int, int]]]]


def read(kernel: Kernel, vm: Any) -> tuple[LeafRows, list[LeafRows], ChainRows]:
    """Return the host leaves, the shadow leaves of each nested guest, and the chains of a VM."""
    slot = vm.memslots[0]
    pgtable = VmReader(kernel.types, kernel.memory).vm(vm.kvm).pgtable or 0
    roots = [guest.shadow_pgtable for guest in vm.nested]
    return (
        read_tree(kernel, pgtable),
        [read_tree(kernel, root) for root in roots],
        read_rmap(kernel, slot.rmap_array, slot.npages, slot.base_gfn),
    )


def rows_of(state: State) -> tuple[LeafRows, list[LeafRows], ChainRows]:
    """Return the same of a State."""
    vm = state.vms[0]
    return (
        vm.host_leaves.columns.tolist(),
        [guest.leaves.columns.tolist() for guest in vm.nested],
        [
            (chain.gfn, [(entry.l1_lpid, entry.n_gpa) for entry in chain.entries])
            for chain in vm.memslots[0].rmap
        ],
    )


def read_tree(kernel: Kernel, root: int) -> LeafRows:
    """Return the leaves of the tree at kernel address `root`; each word but 0 is parsed."""
    leaves: LeafRows = []
    pending = [(kernel.memory.translate(root), 0, ROOT_BITS, TREE_BITS)]
    while pending:
        table, first, bits, span = pending.pop()
        data = kernel.memory.physical.read(table, 8 << bits)
        shift = span - bits
        for index in range(1 << bits):
            raw = data[8 * index : 8 * index + 8]
            if raw == _ZERO:
                continue
            address = first + (index << shift)
            pte = PTE.parse(raw)
            if pte.v and pte.l:
                leaves.append((address, shift, int.from_bytes(raw, "big")))
            elif pte.v:
                pde = PDE.parse(raw)
                pending.append((pde.nlb << PDE_NLB_SHIFT, address, pde.nls, shift))
    leaves.sort()
    return leaves


def read_rmap(kernel: Kernel, array: int, npages: int, base_gfn: int) -> ChainRows:
    """Return every chain of an rmap; each word of the array and each node is parsed."""
    parse_word = RMAP_WORD[kernel.byteorder].parse
    parse_node = RMAP_NESTED[kernel.byteorder].parse
    chains: ChainRows = []
    for start in range(0, 8 * npages, _PIECE):
        data = kernel.memory.read(array + start, min(_PIECE, 8 * npages - start))
        for at in range(0, len(data), 8):
            word = parse_word(data[at : at + 8])
            if isinstance(word, Empty):
                continue
            entries: list[tuple[int, int]] = []
            while isinstance(word, ListPointer):
                node = parse_node(kernel.memory.read(word.node, RMAP_NESTED_SIZE))
                entries.append((node.rmap.l1_lpid, node.rmap.n_gpa << 12))
                word = node.next
            if isinstance(word, Empty):
                raise SystemExit("a list ends with NULL")
            entries.append((word.l1_lpid, word.n_gpa))
            chains.append((base_gfn + (start + at) // 8, entries))
    return chains
