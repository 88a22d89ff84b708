"""Registers of the stopped vCPU by name, whatever byte order it runs in.

QEMU sends registers in the byte order of the vCPU's *current* mode (MSR[LE];
`ppc_maybe_bswap_register`), while GDB knows one order for the session. A vCPU that
stopped in big-endian firmware or in a big-endian guest would be misread. MSR tells:
bit 63 is LE, and bit 7, where the mirrored LE would show, is reserved.
"""

from collections.abc import Mapping, Sequence

from nestscope.plugin.mi.errors import TargetError
from nestscope.plugin.mi.transport import MiTransport

ALIASES: Mapping[str, str] = {"nip": "pc"}
"""ISA names that GDB spells differently."""
_MIRRORED_LE = 1 << 56


class RegisterReader:
    """Reads registers through one transport; knows their numbers from GDB."""

    def __init__(self, transport: MiTransport, *, big_endian: bool, timeout: float) -> None:
        names = transport.execute("-data-list-register-names", timeout).record.payload
        listed = names.get("register-names", [])
        # QEMU lists lr, ctr and xer again among the SPRs, where they read as 0.
        self._numbers: dict[str, int] = {}
        for number, name in enumerate(listed):
            if name:
                self._numbers.setdefault(name, number)
        self._transport = transport
        self._big_endian = big_endian
        if "msr" not in self._numbers:
            raise TargetError("the target has no register msr: it is no Power machine")

    def read(self, names: Sequence[str], timeout: float) -> dict[str, int]:
        """Return the unsigned values of `names` ("r3", "nip", "lpidr", "msr", ...).

        Raises:
            TargetError: a name that the target does not have, or no value.
        """
        numbers = {}
        for name in names:
            number = self._numbers.get(ALIASES.get(name, name))
            if number is None:
                raise TargetError(f"the target has no register {name}")
            numbers[name] = number
        msr_number = self._numbers["msr"]
        wanted = " ".join(str(n) for n in sorted({*numbers.values(), msr_number}))
        answer = self._transport.execute(f"-data-list-register-values r {wanted}", timeout)
        values = {
            int(entry["number"]): _value(entry["value"])
            for entry in answer.record.payload.get("register-values", [])
        }
        missing = [n for n, number in numbers.items() if number not in values]
        if missing or msr_number not in values:
            raise TargetError(f"the target gives no value for {', '.join(missing or ['msr'])}")
        swapped = self._swapped(values[msr_number][0])
        return {
            name: _swap(*values[number]) if swapped else values[number][0]
            for name, number in numbers.items()
        }

    def _swapped(self, msr: int) -> bool:
        """Whether the vCPU's order differs from GDB's, judged by MSR as GDB shows it."""
        if self._big_endian:
            return bool(msr & _MIRRORED_LE)
        return not msr & 1


def _value(raw: str) -> tuple[int, int]:
    """Raw format `0x...`, all digits shown: the value and its size in bytes."""
    try:
        return int(raw, 16), (len(raw) - 2) // 2
    except ValueError:
        raise TargetError(f"GDB cannot show a register: {raw[:60]}") from None


def _swap(value: int, size: int) -> int:
    return int.from_bytes(value.to_bytes(size, "little"), "big")
