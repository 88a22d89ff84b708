"""What the worker keeps from command to command: the target, its kernel, the pages read."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from nestscope.decoders.errors import NestscopeError
from nestscope.decoders.kernel.kernel import Kernel
from nestscope.decoders.sources.protocol import Memory
from nestscope.decoders.state import Source
from nestscope.plugin.gdb.inside.wire import Message
from nestscope.plugin.gdb.worker.gdb_side import GdbSide
from nestscope.plugin.gdb.worker.kernel_view import KernelView
from nestscope.plugin.gdb.worker.live_memory import LiveMemory
from nestscope.plugin.gdb.worker.opening import KernelFiles, open_live_kernel
from nestscope.plugin.target import open_target

Key = tuple[object, ...]


@dataclass
class Opened:
    """A target and its kernel. `types` says where the kernel's types come from."""

    key: Key
    source: Source
    memory: Memory
    kernel: Kernel
    view: KernelView
    types: str
    live: LiveMemory | None
    generation: int


class Session:
    """The opened target; opened on first use, and again when GDB has another."""

    def __init__(self, gdb: GdbSide) -> None:
        self.gdb = gdb
        self._opened: Opened | None = None
        self._stack = ExitStack()

    def open(self, target: Message) -> Opened:
        """Return the target that GDB describes, with nothing kept from before it last ran.

        Raises:
            NestscopeError: if it cannot be examined; one sentence says why.
        """
        files = _files(target)
        key = _key(target, files)
        opened = self._opened
        if opened is None or opened.key != key:
            self.close()
            opened = self._open(target, files, key)
            self._opened = opened
        if opened.live is not None and opened.generation != target["generation"]:
            opened.live.forget()
            opened.kernel.memory.forget()
            opened.generation = target["generation"]
        opened.view.refresh()
        return opened

    def close(self) -> None:
        """Close the target's file, if it is one."""
        self._opened = None
        self._stack.close()

    def run(self, action: Callable[[], None]) -> None:
        """Run a command; after the loss of its target, begin afresh the next time.

        Raises:
            TargetLostError: if the target was lost meanwhile, also where a reader has
                taken that for memory that cannot be read.
        """
        self.gdb.begin()
        try:
            action()
        finally:
            if self.gdb.lost is not None:
                self.close()
                raise self.gdb.lost

    def _open(self, target: Message, files: KernelFiles, key: Key) -> Opened:
        if target["kind"] == "core":
            found = self._stack.enter_context(
                open_target(
                    target["name"], files.vmlinux, files.modules, files.profile, files.debug
                )
            )
            view = KernelView(found.kernel, found.memory)
            return Opened(key, found.source, found.memory, found.kernel, view, "the file", None, 0)
        memory = LiveMemory(self.gdb, qemu=target["kind"] == "qemu", unix=bool(target["unix"]))
        kernel, types = open_live_kernel(self.gdb, memory, files)
        view = KernelView(kernel, memory)
        source = Source("gdb", target["name"])
        return Opened(key, source, memory, kernel, view, types, memory, target["generation"])


def _files(target: Message) -> KernelFiles:
    def path(name: str) -> Path | None:
        text = target.get(name)
        return Path(text) if text else None

    return KernelFiles(path("vmlinux"), path("modules"), path("profile"), path("debug"))


def _key(target: Message, files: KernelFiles) -> Key:
    name = target["name"]
    changed: object = None
    if target["kind"] == "core":
        try:
            status = Path(name).stat()
        except OSError as error:
            raise NestscopeError(f"{name} cannot be read: {error.strerror}") from error
        changed = (status.st_mtime_ns, status.st_size, status.st_ino)
    return (target["kind"], name, target.get("connection"), files, changed)
