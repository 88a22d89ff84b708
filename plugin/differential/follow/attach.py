"""Attaching to a gdbstub: GDB, memory, kernel, and a `Follower` on them."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

from nestscope.decoders.errors import NestscopeError
from nestscope.decoders.kernel.kernel import Kernel, open_kernel
from nestscope.decoders.kernel.profile import Profile
from nestscope.decoders.sources.protocol import Memory
from nestscope.decoders.sources.ram import RamFile
from nestscope.decoders.state import Source
from nestscope.plugin.differential.follow.follower import Follower, Found
from nestscope.plugin.differential.follow.observe import FollowError
from nestscope.plugin.mi.errors import GdbGoneError, MiError
from nestscope.plugin.mi.memory import GdbMemory
from nestscope.plugin.mi.session import GdbSession

GDB_PREFIX = "gdb:"


@contextmanager
def attach(
    target: str,
    vmlinux: Path | None = None,
    modules: Path | None = None,
    profile: Path | None = None,
    debug: Path | None = None,
    *,
    ram: Path | None = None,
    on_found: Callable[[Found], object] = lambda _: None,
    disturb: Callable[[Follower], object] | None = None,
) -> Iterator[Follower]:
    """Attach to `gdb:HOST:PORT` or `gdb:SOCKET`; at the end the target runs without breakpoints.

    `ram` is QEMU's shared RAM file, if there is one: the stopped target is then read
    at memory speed.

    Raises:
        FollowError: if the target is no gdbstub or its kernel cannot be followed.
        NestscopeError: if something is missing or cannot be read.
    """
    if not target.startswith(GDB_PREFIX):
        raise FollowError(f"{target!r} does not run: give gdb:HOST:PORT or gdb:SOCKET")
    endpoint = target.removeprefix(GDB_PREFIX)
    known = Profile.open(profile) if profile is not None else None
    endian = known.byteorder if known is not None and vmlinux is None else None
    with _freed_without_gdb(endpoint), ExitStack() as stack:
        session = stack.enter_context(GdbSession.connect(endpoint, vmlinux, endian=endian))
        memory: Memory
        if ram is not None:
            memory = stack.enter_context(RamFile(ram))
        else:
            memory = stack.enter_context(closing(GdbMemory(session)))
        kernel = _examine(memory, vmlinux, modules, debug, known)
        yield Follower(session, kernel, Source("gdb", endpoint), on_found=on_found, disturb=disturb)


@contextmanager
def _freed_without_gdb(endpoint: str) -> Iterator[None]:
    """If GDB dies, take out the breakpoints that it has left in QEMU, with another one."""
    try:
        yield
    except GdbGoneError:
        with suppress(MiError):  # what has happened to the first one is told
            GdbSession.connect(endpoint).close()
        raise


def _examine(
    memory: Memory,
    vmlinux: Path | None,
    modules: Path | None,
    debug: Path | None,
    profile: Profile | None,
) -> Kernel:
    """Open the kernel. What it tells of itself is more than a shipped profile has."""
    if vmlinux is None and profile is None:
        try:
            return open_kernel(memory, shipped=False)
        except NestscopeError:
            pass  # one without BTF; the profile, or its absence, says what to do
    return open_kernel(memory, vmlinux, modules, debug_dir=debug, profile=profile)
