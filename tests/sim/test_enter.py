"""What an entry of a nested guest reports, whatever its arguments."""

import pytest

from nestscope.sim.errors import UnmodelledError
from nestscope.sim.layout import LAYOUT

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
    ("line", "ret", "r3", "nip"),
    [
        (f"fetch 1 {N:#x}", 0xE40, N, N),  # a word of 0 is no instruction
        (f"load 1 {N + 4:#x}", 0xC00, 0, 0x2C),  # unaligned
        (f"load 1 {N + 0xFFC:#x}", 0xC00, 0, 0x2C),  # across two pages of the processor
        ("load 1 0xc000000001000000", 0xC00, 0, 0x2C),  # bits 0 and 1 set: the same address
        ("load 1 0x10000000000000", 0xC00, 0x380, 0x388),  # 53 bits: a segment interrupt
        ("store 1 0x4000000001000000 1", 0xC00, 0x380, 0x388),  # the hypervisor's quadrant
        ("fetch 1 0x8000000001000000", 0xC00, 0x480, 0x488),
        ("fetch 1 0x0", 0x980, None, None),  # calls itself until its time is up
        ("fetch 1 0x2c", 0x980, 0x2C, 0x2C),  # `b .`
        ("load 1 0x2000000", 0x980, 0x200_0000, 0x0C),  # outside guest memory
    ],
)
def test_how_an_unusual_access_ends(line: str, ret: int, r3: int | None, nip: int | None) -> None:
    world = World()
    world.run(f"map 1 {N:#x} {G:#x} 64K rwxRC", "map 1 0x2000000 0x40000000 64K rwxRC")
    result = world.run(line)
    assert (result.ret, result.nip) == (ret, nip)
    assert r3 is None or result.r3 == r3


def test_an_access_across_two_leaves_faults_at_the_second() -> None:
    world = World()
    world.run(f"map 1 {N:#x} {G:#x} 64K rwxRC", f"map 1 {N + 0x20000:#x} {G:#x} 64K rwxRC")
    result = world.run(f"load 1 {N + 0xFFFC:#x}")
    assert (result.ret, result.hdar, result.asdr) == (0xE00, N + 0x10000, N + 0x10000)
    world.run(f"map 1 {N + 0x10000:#x} {G + 0x20000:#x} 64K rwxRC")
    world.run(f"store 1 {N + 0xFFFC:#x} 0x1122334455667788")
    assert world.run(f"load 1 {N + 0xFFFC:#x}").value == 0x1122334455667788
    assert world.model.kvm.read_guest(G + 0xFFFC, 4) == bytes.fromhex("88776655")
    assert world.model.kvm.read_guest(G + 0x20000, 4) == bytes.fromhex("44332211")


def test_a_load_through_a_write_only_leaf_over_the_zero_page_ends_with_its_time() -> None:
    """The shadow leaf permits nothing, the guest's permits the load: every fault repeats."""
    world = World()
    world.run(f"map 1 {N:#x} {G:#x} 64K wRC")
    result = world.run(f"load 1 {N:#x}")
    assert (result.ret, result.nip, result.hdsisr) == (0x980, 0x0C, 0)
    assert world.shadow_flags(1, N) == 0x100


def test_what_the_stub_and_the_entry_leave_in_memory_can_be_loaded() -> None:
    world = World()
    world.run("map 1 0x1000000 0x20000 64K rwxRC", "map 1 0x2000000 0x30000 64K rwxRC")
    assert world.run("load 1 0x1000000").value == 0xF804
    assert world.run("load 1 0x1000008").value == LAYOUT.state
    assert world.run("load 1 0x1000080").value == 0xC00  # of the entry before
    assert world.run("load 1 0x2000008").value == 1
    assert world.run("load 1 0x2000058").value is None  # hdec_expiry: only the machine knows


def test_a_nested_guest_that_overwrites_the_payload_is_followed() -> None:
    """`ld r5,0(r3)` becomes 0: the next load ends there."""
    world = World()
    world.run("map 1 0x1000000 0x800000 64K rwxRC")
    world.run("store 1 0x1000008 0x4800001841810014")  # a branch past it
    assert world.run("load 1 0x1000000").ret == 0xC00
    world.run("store 1 0x1000008 0x41810014")
    result = world.run("load 1 0x1000000")
    assert (result.ret, result.nip) == (0xE40, 0x0C)


def test_a_guest_whose_own_code_is_gone_is_not_predicted() -> None:
    world = World()
    world.run("map 1 0x1000000 0x10000 64K rwxRC", "store 1 0x1000000 0")
    with pytest.raises(UnmodelledError, match="code of the guest itself"):
        world.run("load 1 0x1000000")


H_PARAMETER, H_BAD_MODE, H_NOT_AVAILABLE, H_P2 = 2**64 - 4, 2**64 - 5, 3, 2**64 - 55
HDEC_OVER, HDEC_NEVER = "word 0x30058 0x0", "word 0x30058 0x0000000000000f00"
VERSION_1, VERSION_2, VERSION_3 = (f"word 0x30000 0x0{n}00000000000000" for n in (1, 2, 3))
RUN = "hcall 0xf804 0x30000 0x31000"


def entered() -> World:
    """A nested guest was entered once: its state lies in memory, its time is over."""
    world = World()
    world.run(f"map 1 {N:#x} {G:#x} 64K rwxRC", f"store 1 {N:#x} 1", HDEC_OVER)
    return world


@pytest.mark.parametrize(
    ("lines", "ret"),
    [
        ((RUN,), 0x980),
        ((VERSION_1, RUN), 0x980),
        ((VERSION_3, RUN), H_PARAMETER),
        (("word 0x30000 0x0", RUN), H_PARAMETER),
        (("word 0x30000 0x0200000001000000", RUN), H_P2),  # 2 in the lower half
        (("hcall 0xf804 0x4000000 0x31000",), H_PARAMETER),
        (("hcall 0xf804 0x3fffff8 0x31000",), H_PARAMETER),
        (("hcall 0xf804 0x30000 0x4000000",), H_PARAMETER),
        (("hcall 0xf804 0x30000 0x3fffff8",), H_PARAMETER),
        (("hcall 0xf804",), H_PARAMETER),
        (("word 0x30008 0x0100000000080000", RUN), H_PARAMETER),  # vcpu_token 2048
        (("word 0x30008 0x01000000ff070000", RUN), 0x980),
        (("word 0x30008 0x0010000000000000", RUN), H_PARAMETER),  # l1_lpid 4096
        (("word 0x31108 0x0110000002000080", RUN), H_BAD_MODE),  # MSR with TS
        (("word 0x31108 0x0110000000000090", RUN), 0x980),  # MSR[HV] is taken away
        (("ptcr 0x40000", "word 0x30008 0x0001000000000000", RUN), H_PARAMETER),
        ((HDEC_NEVER, "word 0x31100 0x0", "word 0x31018 0x0000000100000000", RUN), 0xC00),
    ],
)
def test_each_argument_of_h_enter_nested(lines: tuple[str, ...], ret: int) -> None:
    world = entered()
    assert world.run(*lines).ret == ret


def test_an_entry_that_ends_at_once_makes_the_nested_guest_all_the_same() -> None:
    world = entered()
    world.run("word 0x30008 0x0700000000000000", RUN)
    nested = world.nested(7)
    assert nested is not None
    assert (nested.refcnt, nested.l1_gr_to_hr, len(nested.leaves)) == (1, 0, 0)


def test_what_a_nested_guest_did_on_its_own_time_is_done() -> None:
    """The registers lie in memory: here they say "store 0x55 at N"."""
    world = entered()
    registers = {0x18: N, 0x20: 1, 0x28: 0x55, 0x100: 0}
    for offset, value in registers.items():
        word = int.from_bytes(value.to_bytes(8, "little"), "big")
        world.run(f"word {0x31000 + offset:#x} {word:#x}")
    assert world.run(HDEC_NEVER, RUN).ret == 0xC00
    assert world.model.kvm.read_guest(G, 8) == (0x55).to_bytes(8, "little")
    assert world.model.kvm.read_guest(0x31000 + 0x100, 8) == (0x2C).to_bytes(8, "little")


def test_how_much_time_is_left_is_not_predicted() -> None:
    world = entered()
    world.run(f"load 1 {N:#x}")
    with pytest.raises(UnmodelledError, match="time"):
        world.run(RUN)


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
