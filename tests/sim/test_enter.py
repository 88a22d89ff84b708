"""What one entry of a nested guest reports, and what is not predicted."""

import pytest

from nestscope.sim.errors import UnmodelledError

from .world import World

N, G = 0x100_0000, 0x90_0000


def test_a_store_is_seen_by_the_next_load_of_another_nested_guest() -> None:
    world = World()
    for lpid in (1, 2):
        world.run(f"map {lpid} {N:#x} {G:#x} 64K rwxRC")
    assert world.run(f"store 1 {N + 8:#x} 0x1122334455667788").ret == 0xC00
    result = world.run(f"load 2 {N + 8:#x}")
    assert (result.ret, result.value, result.r3, result.nip) == (
        0xC00,
        0x1122334455667788,
        0,
        0x2C,
    )
    assert world.run(f"load 2 {N:#x}").value == 0


def test_the_vmm_and_the_nested_guest_see_the_same_bytes() -> None:
    world = World()
    world.run(f"map 1 {N:#x} {G:#x} 64K rwxRC", f"store 1 {N:#x} 0x1234")
    assert world.model.kvm.read_guest(G, 8) == bytes.fromhex("3412000000000000")
    world.run(f"write {G:#x} 0x99")
    assert world.run(f"load 1 {N:#x}").value == 0x99


def test_a_jump_to_a_blr_returns() -> None:
    world = World()
    world.run(f"code {G:#x}", f"map 1 {N:#x} {G:#x} 64K rxRC")
    result = world.run(f"fetch 1 {N:#x}")
    assert (result.ret, result.r3, result.nip, result.value) == (0xC00, 0, 0x2C, None)


def test_the_instruction_that_faults_is_named() -> None:
    world = World()
    world.run(f"map 1 {N:#x} {G:#x} 64K rwxRC")
    assert world.run("load 1 0x7000000").nip == 0x0C
    assert world.run("store 1 0x7000000 1").nip == 0x14
    assert world.run("fetch 1 0x7000000").nip == 0x700_0000


@pytest.mark.parametrize(
    "line",
    [
        f"fetch 1 {N:#x}",  # zeros are no blr
        f"load 1 {N + 4:#x}",  # unaligned
        "load 1 0x10000000000000",  # 53 bits
        "load 1 0x8",  # the payload's own code
        "load 1 0x2000000",  # outside guest memory
    ],
)
def test_what_is_not_specified_is_not_predicted(line: str) -> None:
    world = World()
    world.run(f"map 1 {N:#x} {G:#x} 64K rwxRC", "map 1 0x2000000 0x40000000 64K rwxRC")
    with pytest.raises(UnmodelledError):
        world.run(line)


def test_a_load_through_a_write_only_leaf_over_the_zero_page_never_ends() -> None:
    world = World()
    world.run(f"map 1 {N:#x} {G:#x} 64K wRC")
    with pytest.raises(UnmodelledError, match="for ever"):
        world.run(f"load 1 {N:#x}")


def test_an_event_before_the_vm_is_refused() -> None:
    from nestscope.sim.events import Discard
    from nestscope.sim.facts import HostFacts
    from nestscope.sim.model import Model

    model = Model(HostFacts())
    assert model.state().vms == ()
    with pytest.raises(UnmodelledError, match="CreateVm"):
        model.step(Discard(0, 1))


def test_madvise_refuses_an_address_inside_a_page() -> None:
    from nestscope.sim.events import Discard

    world = World()
    assert world.model.step(Discard(G + 0x1000, 0x1000)).ret == 2**64 - 22
