"""Profiles: what they keep, whom they serve, and that they are as the readers need them."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nestscope.decoders.kernel.btf import Btf
from nestscope.decoders.kernel.kernel import KernelError, open_kernel
from nestscope.decoders.kernel.knowledge import Knowledge
from nestscope.decoders.kernel.memory import LINEAR_START
from nestscope.decoders.kernel.profile import Profile, ProfileError
from nestscope.decoders.kernel.recorded import make_profile, unknown_to
from nestscope.decoders.kernel.shipped import (
    keep_profile,
    own_profile_folder,
    shipped_profiles,
    stored_profile,
    stored_profiles,
)
from nestscope.decoders.kernel.symbols import Placed, Symbol, SymbolTable
from nestscope.decoders.kernel.types import UnknownTypeError
from tests.decoders.kernel.self_told import (
    BANNER,
    BUILD_ID,
    MODULE_DATA,
    NOTES,
    RELEASE,
    TEXT,
    load_kvm,
    self_told,
    symbols,
)
from tests.decoders.kernel.world import World, kvm_types


def known(order: str = "<", build_id: bytes | None = BUILD_ID) -> Knowledge:
    table = SymbolTable.of_symbols(Symbol(name, at, 8, at) for name, at in symbols().items())
    return Knowledge(
        name="test",
        release=RELEASE,
        byteorder="little" if order == "<" else "big",
        banner=TEXT,
        build_id=build_id,
        build_id_note=NOTES,
        symbols=table,
        layouts=(Btf(kvm_types(order, queued_lock=True), "test"),),
        module_symbols={"kvm": {"vm_list": Placed(".data", 0x30, 16), "other": Placed("x", 0, 0)}},
    )


def profile(order: str = "<") -> Profile:
    return Profile.from_json(make_profile(known(order)).to_json(), "test")


def without_kallsyms(byteorder: str = "little") -> World:
    """A kernel that needs a profile: no data symbols in kallsyms, none of kvm's."""
    world = self_told("little" if byteorder == "little" else "big", "linux_banner", "modules")
    load_kvm(world, with_data_symbols=False, types=False)
    return world


@pytest.mark.parametrize(("byteorder", "order"), [("little", "<"), ("big", ">")])
def test_a_kernel_that_tells_nothing_is_read_with_its_profile(byteorder: str, order: str) -> None:
    kernel = open_kernel(without_kallsyms(byteorder).physical, profile=profile(order))
    assert (kernel.release, kernel.page_shift, kernel.byteorder) == (RELEASE, 16, byteorder)
    assert kernel.problems == []
    assert kernel.symbol("vm_list").address == MODULE_DATA + 0x30
    assert kernel.types.offset("kvm_memory_slot", "id_node[1].next") == 32


def test_a_profile_says_of_every_asked_member_what_the_types_say() -> None:
    stored, types = profile(), Btf(kvm_types("<", queued_lock=True), "test")
    assert unknown_to(stored) == []
    for name, struct in stored.structs.items():
        whole = types.find(name)
        assert whole is not None
        assert struct.size == whole.size
        for member in struct.members.values():
            of = whole.members[member.name]
            assert (member.offset, member.size, member.kind) == (of.offset, of.size, of.kind)
            assert (member.dims, member.signed, member.bits) == (of.dims, of.signed, of.bits)


def test_only_what_is_asked_is_kept() -> None:
    stored = profile()
    assert "hlist_head" not in stored.structs
    assert "prev" not in stored.structs["kvm"].members
    assert set(stored.symbols) == {"linux_banner", "swapper_pg_dir", "__pte_index_size", "modules"}
    assert set(stored.module_symbols["kvm"]) == {"vm_list"}


def test_a_profile_of_older_readers_is_noticed() -> None:
    document = json.loads(make_profile(known()).to_json())
    del document["structs"]["kvm"]["members"]["arch"]["struct"]["members"]["l1_ptcr"]
    old = Profile.from_json(json.dumps(document), "old")
    assert unknown_to(old) == ["kvm.arch.l1_ptcr"]


def test_the_shipped_profiles_are_for_todays_readers() -> None:
    """If this fails: `nestscope profile make` for each, and put the files in their place."""
    assert len(shipped_profiles()) == 3
    for stored in shipped_profiles():
        assert unknown_to(stored) == [], stored.release


def test_a_profile_of_another_build_is_refused_and_both_are_named() -> None:
    other = Profile.from_json(make_profile(known(build_id=b"x" * 20)).to_json(), "other")
    with pytest.raises(KernelError, match=f"{BUILD_ID.hex()}.*{(b'x' * 20).hex()}"):
        open_kernel(without_kallsyms().physical, profile=other)


def test_a_profile_of_another_kernel_is_refused_and_both_are_named() -> None:
    world = without_kallsyms()
    world.write(BANNER, TEXT.replace(b"6.12.9", b"6.12.7"))
    with pytest.raises(KernelError, match=r"6\.12\.7.*6\.12\.9"):
        open_kernel(world.physical, profile=profile())


def test_a_relocated_kernel_is_read_with_its_profile() -> None:
    world = World()
    distance = 0x1000
    world.write(BANNER + distance, TEXT)
    with pytest.raises(KernelError):
        open_kernel(world.physical, profile=profile())
    whole = self_told()
    note = whole.physical.read(NOTES - LINEAR_START, 64)
    world.write(NOTES + distance, note)
    pte_bits = symbols()["__pte_index_size"] + distance
    world.put(pte_bits, 9)
    kernel = open_kernel(world.physical, profile=profile())
    assert kernel.page_shift == 12
    assert kernel.symbol("modules").address == symbols()["modules"] + distance


def test_a_kernel_without_build_id_has_no_profile() -> None:
    with pytest.raises(ProfileError, match="--build-id"):
        make_profile(known(build_id=None))


def test_types_that_do_not_describe_kvm_make_no_profile() -> None:
    with pytest.raises(UnknownTypeError, match="kvm"):
        make_profile(known(), [Profile.from_json(EMPTY, "empty")])


EMPTY = json.dumps(json.loads(make_profile(known()).to_json()) | {"structs": {}})
TEXT_OF = make_profile(known()).to_json()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "damaged"),
        ("[]", "no profile"),
        ("{}", "no profile"),
        (TEXT_OF.replace("nestscope.profile/1", "nestscope.profile/9"), "no profile of schema"),
        (TEXT_OF.replace('"little"', '"middle"'), "byteorder"),
        (TEXT_OF.replace('"kind": "pointer"', '"kind": "string"'), "kind"),
        (TEXT_OF.replace('"offset": 8,', '"offset": -8,'), "offset"),
        ("[" * 100_000, "damaged|no profile"),
    ],
)
def test_damaged_profiles_are_said_to_be(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "some.json"
    path.write_text(text)
    with pytest.raises(ProfileError, match=message) as caught:
        Profile.open(path)
    assert "nestscope profile make" in str(caught.value)


@given(st.integers(0, len(TEXT_OF) - 1), st.binary(min_size=1, max_size=8))
@settings(max_examples=200, deadline=None)
def test_damage_never_surprises(at: int, noise: bytes) -> None:
    data = TEXT_OF.encode()
    try:
        stored = Profile.from_json(data[:at] + noise + data[at + len(noise) :], "damaged")
        unknown_to(stored)
    except ProfileError:
        pass


def test_a_profile_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match="no profile"):
        Profile.open(tmp_path / "none.json")


def test_a_profile_of_this_machine_is_found_beside_those_of_the_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NESTSCOPE_CACHE", str(tmp_path))
    assert stored_profiles() == shipped_profiles()
    assert stored_profile(BUILD_ID) is None
    made = make_profile(known())
    path = keep_profile(made)
    assert path.parent == own_profile_folder()
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    found = stored_profile(BUILD_ID)
    assert found is not None
    assert found.to_json() == made.to_json()
    assert stored_profiles()[:-1] == shipped_profiles()


def test_a_damaged_profile_of_this_machine_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NESTSCOPE_CACHE", str(tmp_path))
    path = keep_profile(make_profile(known()))
    path.write_text("{}")
    with pytest.raises(ProfileError, match=str(path)):
        stored_profiles()
