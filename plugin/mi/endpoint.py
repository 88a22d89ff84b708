"""What the user names: an endpoint of QEMU's gdbstub, a kernel image."""

import socket
import stat
from contextlib import suppress
from pathlib import Path
from typing import Literal

from nestscope.plugin.mi.errors import MiError, TargetError

Endian = Literal["little", "big"]
_EI_DATA = 5
_ELF_MAGIC = b"\x7fELF"


def gdb_target(endpoint: str) -> str:
    """Return GDB's spelling of `endpoint` (a unix socket's path, or HOST:PORT).

    Raises:
        TargetError: it is neither, or cannot lead anywhere.
    """
    if not endpoint:
        raise TargetError("no gdbstub is named: give the path of its socket, or HOST:PORT")
    path = Path(endpoint)
    if "/" in endpoint or path.exists():
        try:
            if not stat.S_ISSOCK(path.stat().st_mode):
                raise TargetError(f"{endpoint} is not a socket: give the path of QEMU's gdbstub")
        except OSError as error:
            raise TargetError(f"no gdbstub at {endpoint}: {error.strerror}") from error
        return str(path.absolute())
    host, colon, port = endpoint.rpartition(":")
    if not colon or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise TargetError(f"{endpoint!r} is neither a socket's path nor HOST:PORT")
    host = host or "localhost"
    # UnicodeError: a name that no resolver would take.
    with suppress(OSError, UnicodeError):
        # GDB spends its whole time-out on some names that do not resolve.
        socket.getaddrinfo(host.strip("[]"), int(port))
        return f"tcp:{host}:{port}"
    raise TargetError(f"the host of {endpoint!r} is unknown")


def elf_endian(vmlinux: Path) -> Endian:
    """Return the byte order of an ELF file (EI_DATA of its identification).

    Raises:
        MiError: if it is not an ELF file.
    """
    try:
        with vmlinux.open("rb") as file:
            ident = file.read(16)
    except OSError as error:
        raise MiError(f"{vmlinux} cannot be read: {error.strerror}") from error
    if len(ident) < 16 or ident[:4] != _ELF_MAGIC or ident[_EI_DATA] not in (1, 2):
        raise MiError(f"{vmlinux} is not an ELF file: give the uncompressed kernel image")
    return "little" if ident[_EI_DATA] == 1 else "big"
