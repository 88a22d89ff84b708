"""Between GDB and a gdbstub: counts the packets, and can break the connection."""

import select
import socket
import threading
from contextlib import suppress
from pathlib import Path
from typing import Self


class CountingProxy:
    """Listens at `path` (or a loopback port) and passes everything on to `stub`.

    Args:
        refuse: packets that begin so are answered as unknown: a stub that is not QEMU's.
    """

    def __init__(
        self, path: Path, stub: Path, refuse: tuple[bytes, ...] = (), *, tcp: bool = False
    ) -> None:
        self.path = path
        self.packets: list[bytes] = []
        self.cut_after: int | None = None
        """Break the connection once so many packets have come."""
        self._stub = stub
        self._refuse = refuse
        if tcp:
            self._listener = socket.create_server(("127.0.0.1", 0))
            self.name = f"127.0.0.1:{self._listener.getsockname()[1]}"
        else:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(str(path))
            self.name = str(path)
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
            # Acknowledgements of one byte fill a socket while QEMU prints and does not listen.
            server.setblocking(False)
            with client, server:
                self._cut.clear()
                with suppress(OSError):  # one side went away
                    self._relay(client, server)

    def _relay(self, client: socket.socket, server: socket.socket) -> None:
        held, outgoing = b"", bytearray()
        while not self._cut.is_set():
            sending = [server] if outgoing else []
            ready, writable, _ = select.select([client, server], sending, [], 0.05)
            if writable:
                del outgoing[: server.send(outgoing)]
            if server in ready:
                data = server.recv(1 << 16)
                if not data:
                    return
                client.sendall(data)
            if client in ready:
                data = client.recv(1 << 16)
                if not data:
                    return
                held = self._pass_on(held + data, client, outgoing)

    def _pass_on(self, held: bytes, client: socket.socket, outgoing: bytearray) -> bytes:
        """Send whole packets on; return the beginning of one that is not whole yet."""
        while held:
            if held[:1] != b"$":  # an acknowledgement, or Ctrl-C
                outgoing += held[:1]
                held = held[1:]
                continue
            end = held.find(b"#")
            if end < 0 or len(held) < end + 3:
                return held
            packet, held = held[: end + 3], held[end + 3 :]
            body = packet[1:end]
            self.packets.append(body)
            if self.cut_after is not None and len(self.packets) > self.cut_after:
                self.cut_after = None
                self.cut()
                return b""
            if self._refuse and body.startswith(self._refuse):
                client.sendall(b"+$#00")
            else:
                outgoing += packet
        return held
