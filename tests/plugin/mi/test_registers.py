"""Registers by name, where the target lists one name twice."""

from dataclasses import dataclass, field
from typing import Any, cast

from nestscope.plugin.mi.records import MiRecord
from nestscope.plugin.mi.registers import RegisterReader
from nestscope.plugin.mi.transport import MiResult, MiTransport

NAMES = ["r0", "pc", "msr", "lr", "", "lr"]
VALUES = [0, 0xC00, 0x8000_0000_0000_0001, 0xC008_0000_0000_1234, 0, 0]


@dataclass
class Answers:
    """Stands for GDB: QEMU lists lr among the core registers and again among the SPRs."""

    asked: list[tuple[str, float]] = field(default_factory=list)

    def execute(self, command: str, timeout: float) -> MiResult:
        self.asked.append((command, timeout))
        payload: dict[str, Any] = {"register-names": NAMES}
        if command.startswith("-data-list-register-values"):
            numbers = [int(word) for word in command.split()[2:]]
            payload = {
                "register-values": [
                    {"number": str(n), "value": f"{VALUES[n]:#018x}"} for n in numbers
                ]
            }
        return MiResult(MiRecord("result", "done", payload=payload))


def test_the_first_of_two_registers_of_one_name_is_read() -> None:
    reader = RegisterReader(cast(MiTransport, Answers()), big_endian=False, timeout=1)
    assert reader.read(["lr", "nip"], 1) == {"lr": 0xC008_0000_0000_1234, "nip": 0xC00}
