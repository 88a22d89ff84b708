"""Write a cpio archive in "newc" form: what a kernel unpacks as its initramfs.

Source: Documentation/driver-api/early-userspace/buffer-format.rst of the kernel.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import BinaryIO

_DIRECTORY = 0o040755
_FILE = 0o100755
_CHARACTER = 0o020600


@dataclass(frozen=True, slots=True)
class Entry:
    """One member: `data` for a file, None for a directory, `device` for a character device."""

    name: str
    data: bytes | None = None
    device: tuple[int, int] | None = None

    @property
    def mode(self) -> int:
        """File type and permission bits as in `st_mode`."""
        if self.device is not None:
            return _CHARACTER
        return _DIRECTORY if self.data is None else _FILE


def _pad(length: int) -> bytes:
    return bytes(-length % 4)


def _member(name: str, mode: int, inode: int, data: bytes, device: tuple[int, int]) -> bytes:
    encoded = name.encode() + b"\0"
    fields = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(encoded), 0)
    header = b"070701" + b"".join(b"%08X" % value for value in fields)
    start = header + encoded
    return start + _pad(len(start)) + data + _pad(len(data))


def write_cpio(out: BinaryIO, entries: Iterable[Entry]) -> None:
    """Write `entries` to `out` in order, then the trailer. A directory comes before its files.

    Owner, group and time are 0, so equal entries give equal bytes.
    """
    for inode, entry in enumerate(entries, start=1):
        device = entry.device or (0, 0)
        out.write(_member(entry.name, entry.mode, inode, entry.data or b"", device))
    out.write(_member("TRAILER!!!", 0, 0, b"", (0, 0)))
