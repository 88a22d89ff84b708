"""Corruptions of leaves: host tree and shadow trees."""

from nestscope.decoders.words.pde import next_bits, next_table
from nestscope.decoders.words.pte import (
    PTE_C,
    PTE_EAA_EXECUTE,
    PTE_EAA_READ,
    PTE_EAA_WRITE,
    PTE_LEAF,
    PTE_R,
    PTE_RPN,
)
from nestscope.plugin.differential.corruptions.corruption import Place, corruption
from nestscope.plugin.differential.corruptions.scene import Mapping, Scene, SceneError

_PMD_SHIFT, _PUD_SHIFT = 21, 30
_PMD = 1 << _PMD_SHIFT
_RWX = PTE_EAA_READ | PTE_EAA_WRITE | PTE_EAA_EXECUTE
_LOG_DIRTY_PAGES = 1


def _shadow_at(scene: Scene, mapping: Mapping, page: int | None = None) -> Place:
    """The finding is about a shadow leaf; `page` is the host page if it is another now."""
    return {
        "kvm": scene.vm.kvm,
        "memslot": scene.memslot.id,
        "gfn": mapping.gfn,
        "l1_lpid": mapping.l1_lpid,
        "n_gpa": mapping.n_gpa,
        "address": mapping.page if page is None else page,
    }


def _host_at(scene: Scene, gpa: int, page: int, *, memslot: bool = True) -> Place:
    """The finding is about the host leaf of a guest address."""
    return {
        "kvm": scene.vm.kvm,
        "memslot": scene.memslot.id if memslot else None,
        "gfn": gpa >> scene.page_shift,
        "l1_lpid": None,
        "address": page,
    }


def _with_page(pte: int, page: int) -> int:
    return pte & ~PTE_RPN | page


@corruption("I2")
def host_leaf_cleared(scene: Scene) -> Place:
    """A host leaf becomes 0 without its chain being emptied."""
    mapping = scene.single()
    scene.host(scene.host_leaf(mapping.gfn), 0)
    return _shadow_at(scene, mapping)


@corruption("I2")
def host_leaf_of_another_page(scene: Scene) -> Place:
    """A host leaf maps another page."""
    mapping = scene.single()
    leaf = scene.host_leaf(mapping.gfn)
    scene.host(leaf, _with_page(leaf.pte, scene.free_page()))
    return _shadow_at(scene, mapping)


@corruption("I2")
def shadow_leaf_of_another_guest_page(scene: Scene) -> Place:
    """A shadow leaf maps the host page of another guest page."""
    mapping, other = scene.single(), scene.other_single()
    scene.shadow(mapping, _with_page(mapping.leaf.pte, other.page))
    return _shadow_at(scene, mapping, other.page)


@corruption("shadow.freed-page")
def shadow_leaf_of_a_foreign_page(scene: Scene) -> Place:
    """A shadow leaf maps a page that the host does not map for the VM."""
    mapping, page = scene.single(), scene.free_page()
    scene.shadow(mapping, _with_page(mapping.leaf.pte, page))
    return _shadow_at(scene, mapping, page)


@corruption("shadow.freed-page")
def host_leaf_of_a_list_cleared(scene: Scene) -> Place:
    """The host leaf under a list of entries becomes 0."""
    mapping = scene.several[1]
    scene.host(scene.host_leaf(mapping.gfn), 0)
    return _shadow_at(scene, mapping)


@corruption("I3")
def host_leaf_loses_write(scene: Scene) -> Place:
    """A host leaf becomes read-only, as for copy-on-write; its shadow leaf does not."""
    mapping = scene.single()
    leaf = scene.host_leaf(mapping.gfn)
    scene.shadow(mapping, mapping.leaf.pte | PTE_EAA_WRITE)
    scene.host(leaf, leaf.pte & ~PTE_EAA_WRITE)
    return _shadow_at(scene, mapping)


@corruption("I3")
def shadow_leaf_gains_execute(scene: Scene) -> Place:
    """A shadow leaf permits execution that its host leaf does not."""
    mapping = scene.single()
    leaf = scene.host_leaf(mapping.gfn)
    scene.shadow(mapping, mapping.leaf.pte | PTE_EAA_EXECUTE)
    scene.host(leaf, leaf.pte & ~PTE_EAA_EXECUTE)
    return _shadow_at(scene, mapping)


@corruption("I4")
def changed_bit_not_in_host_leaf(scene: Scene) -> Place:
    """C is set in a shadow leaf and clear in its host leaf."""
    mapping = scene.several[0]
    leaf = scene.host_leaf(mapping.gfn)
    scene.shadow(mapping, mapping.leaf.pte | PTE_C)
    scene.host(leaf, leaf.pte & ~PTE_C)
    return _shadow_at(scene, mapping)


@corruption("I4")
def referenced_bit_not_in_host_leaf(scene: Scene) -> Place:
    """R is set in a shadow leaf and clear in its host leaf."""
    mapping = scene.several[0]
    leaf = scene.host_leaf(mapping.gfn)
    scene.shadow(mapping, mapping.leaf.pte | PTE_R)
    scene.host(leaf, leaf.pte & ~PTE_R)
    return _shadow_at(scene, mapping)


@corruption("shadow.attributes")
def shadow_leaf_not_cached(scene: Scene) -> Place:
    """ATT of a shadow leaf becomes non-idempotent I/O."""
    mapping = scene.single()
    scene.shadow(mapping, mapping.leaf.pte | 0x20)
    return _shadow_at(scene, mapping)


@corruption("shadow.exceeds-host-leaf")
def shadow_leaf_grows(scene: Scene) -> Place:
    """A shadow leaf of a base page stands at the level of 2 MiB."""
    mapping = _at_huge_address(scene)
    root = mapping.guest.shadow_pgtable or 0
    scene.big(scene.entry_of(root, mapping.n_gpa, _PMD_SHIFT), mapping.leaf.pte)
    return _shadow_at(scene, mapping)


@corruption("tree.reserved-bits")
def reserved_bit_in_shadow_leaf(scene: Scene) -> Place:
    """A reserved bit of a shadow leaf is set."""
    mapping = scene.single()
    scene.shadow(mapping, mapping.leaf.pte | 0x40)
    return {**_shadow_at(scene, mapping), "memslot": None, "gfn": None}


@corruption("tree.reserved-bits")
def reserved_bit_in_host_leaf(scene: Scene) -> Place:
    """A reserved bit of a host leaf is set."""
    mapping = scene.single()
    leaf = scene.host_leaf(mapping.gfn)
    scene.host(leaf, leaf.pte | 1 << 58)
    return _host_at(scene, leaf.address, mapping.page)


@corruption("tree.misaligned")
def huge_leaf_of_a_base_page(scene: Scene) -> Place:
    """A huge host leaf has the page number of a page that does not begin 2 MiB."""
    page = 1 << scene.page_shift
    gpa = scene.single().gfn << scene.page_shift & -_PMD
    scene.big(scene.entry_of(scene.pgtable, gpa, _PMD_SHIFT), PTE_LEAF | _RWX | _PMD | page)
    return _host_at(scene, gpa, _PMD | page)


@corruption("tree.table-twice")
def shadow_table_used_twice(scene: Scene) -> Place:
    """An empty entry of a shadow tree leads to a table that another one leads to."""
    mapping = scene.single()
    root = mapping.guest.shadow_pgtable or 0
    entry = scene.pde(scene.entry_of(root, mapping.n_gpa, _PMD_SHIFT))
    scene.big(scene.entry_of(root, mapping.n_gpa ^ 64 * _PMD, _PMD_SHIFT), entry)
    return {"kvm": scene.vm.kvm, "l1_lpid": mapping.l1_lpid, "address": next_table(entry)}


@corruption("tree.table-twice")
def host_tree_leads_to_itself(scene: Scene) -> Place:
    """An entry of the host tree at the level of 2 MiB leads to a table of its own level."""
    gpa = scene.single().gfn << scene.page_shift
    above = scene.pde(scene.entry_of(scene.pgtable, gpa, _PUD_SHIFT))
    scene.big(scene.entry_of(scene.pgtable, gpa, _PMD_SHIFT), above - next_bits(above) + 5)
    return {"kvm": scene.vm.kvm, "l1_lpid": None, "address": next_table(above)}


@corruption("tree.table-size")
def table_of_no_size(scene: Scene) -> Place:
    """NLS of an entry of a shadow tree becomes 0."""
    mapping = scene.single()
    place = scene.entry_of(mapping.guest.shadow_pgtable or 0, mapping.n_gpa, _PMD_SHIFT)
    entry = scene.pde(place)
    scene.big(place, entry - next_bits(entry))
    return {"kvm": scene.vm.kvm, "l1_lpid": mapping.l1_lpid, "address": place}


@corruption("host.outside-memslot")
def host_leaf_behind_the_memslot(scene: Scene) -> Place:
    """A huge host leaf is put behind the end of the memslot."""
    end = scene.memslot.base_gfn + scene.memslot.npages << scene.page_shift
    gpa = end + _PMD - 1 & -_PMD
    page = 16 * _PMD
    scene.big(scene.entry_of(scene.pgtable, gpa, _PMD_SHIFT), PTE_LEAF | _RWX | page)
    return _host_at(scene, gpa, page, memslot=False)


@corruption("host.outside-memslot")
def memslot_shrinks(scene: Scene) -> Place:
    """`npages` of the memslot becomes so small that its last host leaf is outside."""
    last = max(scene.vm.host_leaves, key=lambda leaf: leaf.address)
    npages = (last.address >> scene.page_shift) - scene.memslot.base_gfn
    scene.member("kvm_memory_slot", scene.raw_memslot().address, "npages", npages)
    return _host_at(scene, last.address, last.pte & PTE_RPN, memslot=False)


@corruption("host.huge-while-logging")
def huge_leaf_while_logging(scene: Scene) -> Place:
    """A huge host leaf appears in a memslot whose dirty pages are logged."""
    flags = (scene.memslot.flags or 0) | _LOG_DIRTY_PAGES
    scene.member("kvm_memory_slot", scene.raw_memslot().address, "flags", flags)
    gpa = scene.single().gfn << scene.page_shift & -_PMD
    page = 16 * _PMD
    scene.big(scene.entry_of(scene.pgtable, gpa, _PMD_SHIFT), PTE_LEAF | _RWX | page)
    return _host_at(scene, gpa, page)


@corruption("rmap.not-at-leaf-start")
def chain_inside_a_huge_leaf(scene: Scene) -> Place:
    """A huge host leaf replaces base pages, and their chains stay."""
    mapping = scene.single()
    gpa = mapping.gfn << scene.page_shift
    leaf = PTE_LEAF | _RWX | 16 * _PMD
    if not gpa & (_PMD - 1):
        raise SceneError("the chain is at the start of 2 MiB")
    scene.big(scene.entry_of(scene.pgtable, gpa, _PMD_SHIFT), leaf)
    return {
        "kvm": scene.vm.kvm,
        "memslot": scene.memslot.id,
        "gfn": mapping.gfn,
        "address": scene.word(mapping.gfn),
    }


@corruption("rmap.stale")
def shadow_leaf_cleared(scene: Scene) -> Place:
    """A shadow leaf becomes 0 and its entry stays, as after a tlbie."""
    scene.shadow(scene.single(), 0)
    return {"kvm": scene.vm.kvm, "memslot": scene.memslot.id}


def _at_huge_address(scene: Scene) -> Mapping:
    """Return a mapping at an n_gpa that is a multiple of 2 MiB."""
    for mapping in (*scene.several, scene.single(), scene.other_single()):
        if not mapping.n_gpa & (_PMD - 1):
            return mapping
    raise SceneError("no nested guest maps a page at the start of 2 MiB")


TREE_CORRUPTIONS = (
    host_leaf_cleared,
    host_leaf_of_another_page,
    shadow_leaf_of_another_guest_page,
    shadow_leaf_of_a_foreign_page,
    host_leaf_of_a_list_cleared,
    host_leaf_loses_write,
    shadow_leaf_gains_execute,
    changed_bit_not_in_host_leaf,
    referenced_bit_not_in_host_leaf,
    shadow_leaf_not_cached,
    shadow_leaf_grows,
    reserved_bit_in_shadow_leaf,
    reserved_bit_in_host_leaf,
    huge_leaf_of_a_base_page,
    shadow_table_used_twice,
    host_tree_leads_to_itself,
    table_of_no_size,
    host_leaf_behind_the_memslot,
    memslot_shrinks,
    huge_leaf_while_logging,
    chain_inside_a_huge_leaf,
    shadow_leaf_cleared,
)
