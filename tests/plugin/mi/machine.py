"""A real QEMU pseries machine without a kernel, paused before its first instruction."""

import mmap
import re
import struct
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self

RAM_SIZE = 256 << 20
COUNTER = 0x100000
"""Where `COUNT_UP` counts: a big-endian doubleword."""
COUNT_UP = struct.pack(
    ">5I",
    0x3C800010,  # 0x100: lis r4, 0x10
    0xE8640000,  # 0x104: ld r3, 0(r4)
    0x38630001,  # 0x108: addi r3, r3, 1
    0xF8640000,  # 0x10c: std r3, 0(r4)
    0x4BFFFFF4,  # 0x110: b 0x104
)
RESET = 0x100
ADDI = 0x108


class PausedMachine:
    """QEMU with its gdbstub on a unix socket and its RAM in a shared file."""

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="nestscope-test-")
        self.directory = Path(self._directory.name)
        self.socket = self.directory / "gdb"
        ram = self.directory / "ram"
        quiet = "cap-cfpc=broken,cap-sbbc=broken,cap-ibs=broken,cap-ccf-assist=off"
        self._qemu = subprocess.Popen(
            [
                "qemu-system-ppc64", "-S", "-nodefaults", "-display", "none", "-qmp", "stdio",
                "-M", f"pseries,x-vof=on,{quiet},memory-backend=ram", "-cpu", "POWER9",
                "-accel", "tcg", "-m", str(RAM_SIZE >> 20),
                "-object", f"memory-backend-file,id=ram,size={RAM_SIZE},mem-path={ram},share=on",
                "-chardev", f"socket,path={self.socket},server=on,wait=off,id=gdb0",
                "-gdb", "chardev:gdb0",
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )  # fmt: skip
        # QEMU answers a command only after the machine's reset, which lays out the firmware
        # where our program goes.
        assert self._qemu.stdin is not None
        assert self._qemu.stdout is not None
        self._qemu.stdin.write(b'{"execute": "qmp_capabilities"}\n')
        self._qemu.stdin.flush()
        answers = [self._qemu.stdout.readline() for _ in ("greeting", "return")]
        if b"return" not in answers[1]:
            errors = self._qemu.communicate()[1]
            self._directory.cleanup()
            raise RuntimeError(f"QEMU did not start: {errors!r}")
        with ram.open("r+b") as file:
            self.ram = mmap.mmap(file.fileno(), 0)

    @property
    def pid(self) -> int:
        return self._qemu.pid

    def counter(self) -> int:
        return int.from_bytes(self.ram[COUNTER : COUNTER + 8], "big")

    def counts_up(self, seconds: float = 10.0) -> bool:
        """Whether the counter moves within the time."""
        before, deadline = self.counter(), time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.counter() != before:
                return True
            time.sleep(0.01)
        return False

    def kill(self) -> None:
        self._qemu.kill()
        self._qemu.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        for stream in (self._qemu.stdin, self._qemu.stdout, self._qemu.stderr):
            assert stream is not None
            stream.close()
        self.ram.close()
        self._directory.cleanup()


def gdb_children(pid: int) -> list[int]:
    """Process ids of the GDBs whose parent is `pid`."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            match = re.match(r"(\d+) \((.*)\) \S (\d+)", stat.read_text())
        except OSError:
            continue
        if match and match[2].startswith("gdb") and int(match[3]) == pid:
            found.append(int(match[1]))
    return found
