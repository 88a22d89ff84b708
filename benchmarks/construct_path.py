"""The same State word by word through the Construct definitions: what bulk is compared with."""

from typing import NamedTuple

from nestscope.decoders.kernel.kernel import Kernel
from nestscope.decoders.kernel.memory import ROOT_BITS, TREE_BITS
from nestscope.decoders.kernel.vms import VmReader
from nestscope.decoders.state import Chains, Vm
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
Rows = tuple[LeafRows, list[LeafRows], ChainRows]


class Sample(NamedTuple):
    """A part of a VM: its host leaves and chains below a gfn, the trees of its first guests."""

    gfns: int
    nested: int


def read(kernel: Kernel, vm: Vm, sample: Sample) -> Rows:
    """Return the host leaves, the shadow leaves of each nested guest, and the chains."""
    slot = vm.memslots[0]
    pgtable = VmReader(kernel.types, kernel.memory).vm(vm.kvm).pgtable or 0
    end = sample.gfns << (kernel.page_shift or 0)
    npages = min(slot.npages, sample.gfns)
    return (
        read_tree(kernel, pgtable, end),
        [read_tree(kernel, guest.shadow_pgtable or 0) for guest in vm.nested[: sample.nested]],
        read_rmap(kernel, slot.rmap_array or 0, npages, slot.base_gfn),
    )


def rows_of(vm: Vm, sample: Sample, page_shift: int) -> Rows:
    """Return the same of a State."""
    host = vm.host_leaves.columns
    chains = vm.memslots[0].rmap
    below = Chains(chains.index[chains.index["gfn"] < sample.gfns], chains.entries)
    return (
        host[host["address"] < sample.gfns << page_shift].tolist(),
        [guest.leaves.columns.tolist() for guest in vm.nested[: sample.nested]],
        [(chain.gfn, [(entry.l1_lpid, entry.n_gpa) for entry in chain.entries]) for chain in below],
    )


def items(rows: Rows, npages: int) -> int:
    """Return how many words of the array, leaves and entries were read."""
    host, shadow, chains = rows
    entries = sum(len(chain) for _, chain in chains)
    return npages + len(host) + sum(map(len, shadow)) + entries


def read_tree(kernel: Kernel, root: int, end: int = 1 << TREE_BITS) -> LeafRows:
    """Return the leaves below address `end` of the tree at kernel address `root`.

    Each word but 0 is parsed.
    """
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
            if address >= end:
                break
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
