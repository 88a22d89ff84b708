from hypothesis import given
from hypothesis import strategies as st

from nestscope.decoders.words.pt_regs import PT_REGS, USER_PT_REGS


@given(st.sampled_from(("little", "big")), st.binary(min_size=384, max_size=384))
def test_registers_survive_parse_and_build(order, raw):
    assert PT_REGS[order].build(PT_REGS[order].parse(raw)) == raw


def test_sizes_are_those_of_the_kernel():
    assert USER_PT_REGS["big"].sizeof() == 352
    assert PT_REGS["big"].sizeof() == 384


def test_nip_and_msr_follow_32_general_registers():
    raw = b"".join(number.to_bytes(8, "little") for number in range(48))
    regs = PT_REGS["little"].parse(raw)
    assert list(regs.user_regs.gpr) == list(range(32))
    assert (regs.user_regs.nip, regs.user_regs.msr) == (32, 33)
    assert (regs.user_regs.trap, regs.user_regs.result) == (40, 43)
    assert list(regs.pad) == [44, 45, 46, 47]
