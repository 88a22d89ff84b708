"""A State laid out as memory reads back as itself: any State, any kernel family, any byte order."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nestscope.decoders.kernel.byteorder import ByteOrder
from nestscope.decoders.read_state import read_state
from nestscope.decoders.sources.open import open_source
from nestscope.decoders.state import (
    FORM_LIST,
    FORM_SINGLE,
    Chains,
    KernelInfo,
    Leaves,
    Memslot,
    NestedGuest,
    Problem,
    State,
    Vm,
)
from nestscope.sim.image.build import Image, build_image
from nestscope.sim.image.errors import ImageError
from nestscope.sim.image.profiles import PROFILES, profile_types
from nestscope.sim.image.synthetic import synthetic_state
from tests.sim.image.states import LEAF, SOURCE, plain, states, without_addresses

KERNELS = st.tuples(st.sampled_from(sorted(PROFILES)), st.sampled_from(("little", "big")))


def _read(image: Image) -> State:
    return read_state(image.memory, image.kernel, SOURCE)


@settings(max_examples=150, deadline=None)
@given(st.data(), KERNELS, st.sampled_from((12, 16)), st.none() | st.integers(0, 99))
def test_what_was_laid_out_is_what_is_read(
    data: st.DataObject, kernel: tuple[str, ByteOrder], page_shift: int, seed: int | None
) -> None:
    state = data.draw(states(page_shift))
    profile, byteorder = kernel
    image = build_image(state, profile_types(profile), byteorder=byteorder, seed=seed)
    found = _read(image)
    assert without_addresses(found) == without_addresses(state)
    assert plain(found) == plain(image.state)


def _state(**changes: object) -> State:
    slot = Memslot(3, 0x100, 64, 0x7000_0000, 1, 1, Chains.build([(0x120, 1, [(5, 0x1000)])]))
    guest = NestedGuest(5, 9, 1, 0x111, 0x222, 1, Leaves.build([(0x1000, 12, LEAF | 0x5000)]))
    vm = Vm(1, 2, True, False, 0x40000, (slot,), Leaves.build([(0, 21, LEAF)]), (guest,))
    return State(SOURCE, KernelInfo("x", 12), (replace(vm, **changes),))  # type: ignore[arg-type]


def _slot(**changes: object) -> Memslot:
    return replace(_state().vms[0].memslots[0], **changes)  # type: ignore[arg-type]


def _guest(**changes: object) -> NestedGuest:
    return replace(_state().vms[0].nested[0], **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("page_shift", [12, 16])
@pytest.mark.parametrize("extension", ["raw", "elf"])
@pytest.mark.parametrize("byteorder", ["little", "big"])
def test_a_file_of_it_reads_the_same(
    tmp_path: Path, extension: str, byteorder: ByteOrder, page_shift: int
) -> None:
    state = synthetic_state(gfns=5000, entries=300, nested=3, page_shift=page_shift)
    image = build_image(
        state, profile_types("6.12-like"), byteorder=byteorder, base=1 << 36, seed=3
    )
    path = tmp_path / f"image.{extension}"
    if extension == "raw":
        image.memory.write_raw(path)
    else:
        image.memory.write_elf_core(path, byteorder)
    memory, source = open_source(path)
    with memory:
        assert source.kind == ("raw" if extension == "raw" else "elf-core")
        found = read_state(memory, image.facts.open(memory, image.types), SOURCE)
    assert plain(found) == plain(image.state)
    if extension == "raw":
        assert path.stat().st_size > 1 << 36
    assert path.stat().st_blocks * 512 < 8 << 20


def test_nested_guest_0_alone_needs_no_node() -> None:
    state = _state(nested=(_guest(l1_lpid=0),))
    image = build_image(state, profile_types("6.12-like"))
    assert [guest.l1_lpid for guest in _read(image).vms[0].nested] == [0]


def test_two_images_with_other_seeds_differ_in_memory_and_not_in_state() -> None:
    state = _state(memslots=(_slot(npages=1 << 14),))
    images = [build_image(state, profile_types("6.12-like"), seed=seed) for seed in (1, 2)]
    assert without_addresses(_read(images[0])) == without_addresses(_read(images[1]))
    contents = [b"".join(r.data.tobytes() for r in image.memory.regions) for image in images]
    assert len(contents[0]) == len(contents[1])
    assert contents[0] != contents[1]


@pytest.mark.parametrize(
    "state",
    [
        _state(lpid=None),
        _state(lpid=1 << 32),
        _state(radix=None),
        _state(mmu_lock_held=None),
        _state(radix=False),
        _state(memslots=(_slot(userspace_addr=None),)),
        _state(memslots=(_slot(id=1 << 15),)),
        _state(memslots=(_slot(rmap=Chains.build([(0x140, 1, [(1, 0)])])),)),
        _state(memslots=(_slot(rmap=Chains.build([(0xFF, 1, [(1, 0)])])),)),
        _state(memslots=(_slot(rmap=Chains.build([(0x100, FORM_LIST, [(1, 0)])])),)),
        _state(memslots=(_slot(rmap=Chains.build([(0x100, FORM_SINGLE, [(1, 0), (2, 0)])])),)),
        _state(memslots=(_slot(rmap=Chains.build([(0x100, FORM_SINGLE, [])])),)),
        _state(memslots=(_slot(rmap=Chains.build([(0x100, 1, [(4096, 0)])])),)),
        _state(memslots=(_slot(rmap=Chains.build([(0x100, 1, [(1, 0x800)])])),)),
        _state(nested=(_guest(refcnt=None),)),
        _state(nested=(_guest(), _guest())),
        _state(host_leaves=Leaves.build([(0, 16, LEAF)])),
        _state(host_leaves=Leaves.build([(0x1000, 21, LEAF)])),
        _state(host_leaves=Leaves.build([(0, 21, LEAF), (0x1000, 12, LEAF)])),
        _state(host_leaves=Leaves.build([(1 << 52, 12, LEAF)])),
        _state(host_leaves=Leaves.build([(0, 12, 1 << 63)])),
        replace(_state(), problems=(Problem("vms", "unreadable"),)),
        replace(_state(), kernel=KernelInfo("x", 14)),
        replace(_state(), kernel=KernelInfo("x", None)),
    ],
)
def test_what_no_kernel_can_hold_is_refused(state: State) -> None:
    build_image(_state(), profile_types("6.1-like"))
    with pytest.raises(ImageError):
        build_image(state, profile_types("6.1-like"))
