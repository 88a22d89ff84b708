"""Results of events in words."""

from nestscope.sim.events import Result

_TRAPS = {
    0xC00: "done",
    0xE00: "HDSI",
    0xE20: "HISI",
    0x980: "hypervisor decrementer",
}
_HCALL_ERRORS = {
    -2: "H_FUNCTION",
    -4: "H_PARAMETER",
    -5: "H_BAD_MODE",
    -55: "H_P2",
    -57: "H_P4",
    -9: "H_NOT_AVAILABLE",
}
_SIGN = 1 << 63


def describe_result(result: Result) -> str:
    """Return what an event reported, in the field's words; empty where there is nothing to say."""
    signed = result.ret - (result.ret & _SIGN) * 2
    if signed < 0:
        return _HCALL_ERRORS.get(signed, f"error {signed}")
    if result.ret == 0:
        return "" if result.nip is None else "H_SUCCESS"
    text = _TRAPS.get(result.ret, f"trap {result.ret:#x}")
    if result.value is not None and result.ret == 0xC00:
        text += f", value {result.value:#x}"
    if result.ret == 0xE00 and result.hdsisr:
        text += f" hdsisr {result.hdsisr:#x}"
    return text
