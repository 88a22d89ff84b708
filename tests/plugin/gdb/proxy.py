"""Between GDB and a gdbstub: counts the packets, and can break the connection."""

import select
import socket
import threading
from pathlib import Path
from typing import Self


class CountingProxy:
    """Listens on a unix socket and passes everything on to `stub`, one client at a time.

    Args:
        refuse: packets that begin so are answered as unknown: a stub that is not QEMU's.
    """

    def __init__(self, path: Path, stub: Path, refuse: tuple[bytes, ...] = ()) -> None:
        self.path = path
        self.packets: list[bytes] = []
        self._stub = stub
        self._refuse = refuse
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(1)
        self._cut = threading.Event()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def cut(self) -> None:
        """Break the connection, as if the target were gone."""
        self._cut.set()

    def close(self) -> None:
        self._end.set()
        self._cut.set()
        self._thread.join(5)
        self._listener.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _serve(self) -> None:
        while not self._end.is_set():
            ready, _, _ = select.select([self._listener], [], [], 0.1)
            if not ready:
                continue
            client, _ = self._listener.accept()
            server = socket.socket(socket.AF_UNIX)
            server.connect(str(self._stub))
            with client, server:
                self._cut.clear()
                self._relay(client, server)

    def _relay(self, client: socket.socket, server: socket.socket) -> None:
        held = b""
        while not self._cut.is_set():
            ready, _, _ = select.select([client, server], [], [], 0.05)
            if server in ready:
                data = server.recv(1 << 16)
                if not data:
                    return
                client.sendall(data)
            if client in ready:
                data = client.recv(1 << 16)
                if not data:
                    return
                held = self._pass_on(held + data, client, server)

    def _pass_on(self, held: bytes, client: socket.socket, server: socket.socket) -> bytes:
        """Send whole packets on; return the beginning of one that is not whole yet."""
        while held:
            if held[:1] != b"$":  # an acknowledgement, or Ctrl-C
                server.sendall(held[:1])
                held = held[1:]
                continue
            end = held.find(b"#")
            if end < 0 or len(held) < end + 3:
                return held
            packet, held = held[: end + 3], held[end + 3 :]
            body = packet[1:end]
            self.packets.append(body)
            if body.startswith(self._refuse or (b"\0",)):
                client.sendall(b"+$#00")
            else:
                server.sendall(packet)
        return held
