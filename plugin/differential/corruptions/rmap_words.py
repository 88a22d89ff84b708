"""Corruptions of the rmap: words, nodes and links of the lists."""

from nestscope.decoders.words.rmap import RMAP_LPID_SHIFT, RMAP_SINGLE
from nestscope.plugin.differential.corruptions.corruption import Place, corruption
from nestscope.plugin.differential.corruptions.scene import Mapping, Scene

_VMALLOC = 0xC008_0000_0123_4560


def _leaf_at(scene: Scene, mapping: Mapping) -> Place:
    """The finding is about the shadow leaf of a mapping; no entry says where it belongs."""
    return {
        "kvm": scene.vm.kvm,
        "l1_lpid": mapping.l1_lpid,
        "n_gpa": mapping.n_gpa,
        "address": mapping.page,
        "gfn": None,
    }


def _in_chain(scene: Scene, gfn: int, address: int, entry: int | None = None) -> Place:
    """The finding is about a chain, and where the bad word is; `entry` is what it says."""
    place: Place = {
        "kvm": scene.vm.kvm,
        "memslot": scene.memslot.id,
        "gfn": gfn,
        "address": address,
    }
    if entry is not None:
        place["l1_lpid"] = entry >> RMAP_LPID_SHIFT
        place["n_gpa"] = entry & ((1 << RMAP_LPID_SHIFT) - 1)
    return place


@corruption("I1")
def single_entry_lost(scene: Scene) -> Place:
    """The rmap word of a single entry becomes 0."""
    mapping = scene.single()
    scene.u64(scene.word(mapping.gfn), 0)
    return _leaf_at(scene, mapping)


@corruption("I1")
def entry_of_another_guest(scene: Scene) -> Place:
    """One bit of the LPID in a single entry is flipped."""
    mapping = scene.single()
    word = mapping.entry ^ 1 << RMAP_LPID_SHIFT + 8
    scene.u64(scene.word(mapping.gfn), word | RMAP_SINGLE)
    return _leaf_at(scene, mapping)


@corruption("I1")
def entry_of_another_page(scene: Scene) -> Place:
    """One bit of the n_gpa in a single entry is flipped."""
    mapping = scene.single()
    scene.u64(scene.word(mapping.gfn), mapping.entry ^ 1 << 40 | RMAP_SINGLE)
    return _leaf_at(scene, mapping)


@corruption("I1")
def head_of_list_skipped(scene: Scene) -> Place:
    """The rmap word of a list leads to its second node."""
    first = scene.several[0]
    scene.u64(scene.word(first.gfn), scene.nodes(first.gfn)[1])
    return _leaf_at(scene, first)


@corruption("I1")
def node_overwritten_with_another_guest(scene: Scene) -> Place:
    """The entry of a list node names a nested guest that there is not."""
    mapping = scene.several[1]
    node = scene.nodes(mapping.gfn)[1]
    scene.u64(node + 8, mapping.n_gpa | 0x7FF << RMAP_LPID_SHIFT)
    return _leaf_at(scene, mapping)


@corruption("I1")
def tail_replaced(scene: Scene) -> Place:
    """The last word of a list becomes another entry."""
    last = scene.several[-1]
    node = scene.nodes(last.gfn)[-1]
    scene.u64(node, last.entry ^ 1 << 44 | RMAP_SINGLE)
    return _leaf_at(scene, last)


@corruption("I2")
def entry_under_an_unmapped_gfn(scene: Scene) -> Place:
    """A single entry is moved to a gfn that the host does not map."""
    mapping = scene.single()
    gfn = scene.empty_gfn(mapped=False)
    scene.u64(scene.word(mapping.gfn), 0)
    scene.u64(scene.word(gfn), mapping.entry | RMAP_SINGLE)
    return {**_leaf_at(scene, mapping), "gfn": gfn, "memslot": scene.memslot.id}


@corruption("I2")
def entry_under_another_gfn(scene: Scene) -> Place:
    """A single entry is moved to a gfn that the host maps to another page."""
    mapping = scene.single()
    gfn = scene.empty_gfn(mapped=True)
    scene.u64(scene.word(mapping.gfn), 0)
    scene.u64(scene.word(gfn), mapping.entry | RMAP_SINGLE)
    return {**_leaf_at(scene, mapping), "gfn": gfn, "memslot": scene.memslot.id}


@corruption("rmap.no-host-leaf")
def entry_appears_under_an_unmapped_gfn(scene: Scene) -> Place:
    """An empty word of a gfn that the host does not map becomes an entry."""
    gfn = scene.empty_gfn(mapped=False)
    scene.u64(scene.word(gfn), scene.single().entry ^ 1 << 40 | RMAP_SINGLE)
    return _in_chain(scene, gfn, scene.word(gfn))


@corruption("I5.reserved-bits")
def reserved_bit_in_single_entry(scene: Scene) -> Place:
    """A reserved bit of a single entry is set."""
    mapping = scene.single()
    word = scene.word(mapping.gfn)
    scene.u64(word, mapping.entry | RMAP_SINGLE | 0x10)
    return _in_chain(scene, mapping.gfn, word, mapping.entry)


@corruption("I5.reserved-bits")
def reserved_bit_in_node(scene: Scene) -> Place:
    """A reserved bit of the entry in a list node is set."""
    mapping = scene.several[0]
    node = scene.nodes(mapping.gfn)[0]
    scene.u64(node + 8, mapping.entry | 0x800)
    return _in_chain(scene, mapping.gfn, node + 8, mapping.entry)


@corruption("I5.reserved-bits")
def single_bit_in_node(scene: Scene) -> Place:
    """Bit 0 of the entry in a list node is set, as in a single entry."""
    mapping = scene.several[0]
    node = scene.nodes(mapping.gfn)[0]
    scene.u64(node + 8, mapping.entry | RMAP_SINGLE)
    return _in_chain(scene, mapping.gfn, node + 8, mapping.entry)


@corruption("I5.sub-page", page_shifts=(16,))
def entry_inside_a_page(scene: Scene) -> Place:
    """The n_gpa of a single entry gets a bit below the host's page size."""
    mapping = scene.single()
    word = scene.word(mapping.gfn)
    scene.u64(word, mapping.entry | RMAP_SINGLE | 0x1000)
    return _in_chain(scene, mapping.gfn, word, mapping.entry | 0x1000)


@corruption("I5.zero-entry")
def node_with_zero(scene: Scene) -> Place:
    """The entry of the first list node becomes 0."""
    gfn = scene.several[0].gfn
    scene.u64(scene.nodes(gfn)[0] + 8, 0)
    return _in_chain(scene, gfn, scene.word(gfn), 0)


@corruption("I5.duplicate")
def duplicate_in_node(scene: Scene) -> Place:
    """The entry of a list node becomes that of the next one."""
    first, second = scene.several[:2]
    scene.u64(scene.nodes(first.gfn)[0] + 8, second.entry)
    return _in_chain(scene, first.gfn, scene.word(first.gfn), second.entry)


@corruption("I5.node-unaligned")
def word_leads_into_a_node(scene: Scene) -> Place:
    """The rmap word of a list gets a bit below the alignment of nodes."""
    gfn = scene.several[0].gfn
    scene.u64(scene.word(gfn), scene.nodes(gfn)[0] | 4)
    return _in_chain(scene, gfn, scene.word(gfn))


@corruption("I5.node-unaligned")
def next_leads_into_a_node(scene: Scene) -> Place:
    """`next` of a list node gets a bit below the alignment of nodes."""
    gfn = scene.several[0].gfn
    first, second = scene.nodes(gfn)[:2]
    scene.u64(first, second | 2)
    return _in_chain(scene, gfn, first)


@corruption("I5.node-wild")
def word_leads_to_vmalloc(scene: Scene) -> Place:
    """The rmap word of a list becomes an address of the vmalloc region."""
    gfn = scene.several[0].gfn
    scene.u64(scene.word(gfn), _VMALLOC)
    return _in_chain(scene, gfn, scene.word(gfn))


@corruption("I5.node-wild")
def next_is_text(scene: Scene) -> Place:
    """`next` of a list node is overwritten with text."""
    gfn = scene.several[0].gfn
    node = scene.nodes(gfn)[0]
    scene.u64(node, int.from_bytes(b"@hello, ", "little"))
    return _in_chain(scene, gfn, node)


@corruption("I5.lost-tail")
def next_is_null(scene: Scene) -> Place:
    """`next` of the last list node becomes NULL."""
    gfn = scene.several[0].gfn
    node = scene.nodes(gfn)[-1]
    scene.u64(node, 0)
    return _in_chain(scene, gfn, node)


@corruption("I5.cycle")
def node_leads_to_itself(scene: Scene) -> Place:
    """`next` of the first list node leads to that node."""
    gfn = scene.several[0].gfn
    node = scene.nodes(gfn)[0]
    scene.u64(node, node)
    return _in_chain(scene, gfn, node)


@corruption("I5.cycle")
def last_node_leads_to_head(scene: Scene) -> Place:
    """`next` of the last list node leads to the first one."""
    gfn = scene.several[0].gfn
    nodes = scene.nodes(gfn)
    scene.u64(nodes[-1], nodes[0])
    return _in_chain(scene, gfn, nodes[-1])


RMAP_CORRUPTIONS = (
    single_entry_lost,
    entry_of_another_guest,
    entry_of_another_page,
    head_of_list_skipped,
    node_overwritten_with_another_guest,
    tail_replaced,
    entry_under_an_unmapped_gfn,
    entry_under_another_gfn,
    entry_appears_under_an_unmapped_gfn,
    reserved_bit_in_single_entry,
    reserved_bit_in_node,
    single_bit_in_node,
    entry_inside_a_page,
    node_with_zero,
    duplicate_in_node,
    word_leads_into_a_node,
    next_leads_into_a_node,
    word_leads_to_vmalloc,
    next_is_text,
    next_is_null,
    node_leads_to_itself,
    last_node_leads_to_head,
)
