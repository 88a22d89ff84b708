"""A SOURCE of the command line, opened: memory, kernel, State."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nestscope.decoders.captured import captured_profile, is_capture, open_capture
from nestscope.decoders.kernel.elf_image import ElfImage
from nestscope.decoders.kernel.kernel import Kernel, KernelError, open_kernel
from nestscope.decoders.kernel.profile import Profile
from nestscope.decoders.read_state import read_state
from nestscope.decoders.sources.elf_core import ElfCore
from nestscope.decoders.sources.elf_notes import Note
from nestscope.decoders.sources.open import open_source
from nestscope.decoders.sources.protocol import Memory
from nestscope.decoders.state import Source, State
from nestscope.plugin.samples import (
    DEFAULT_SOURCE,
    SAMPLE_PREFIX,
    SAMPLE_SUFFIX,
    sample_path,
)

GDB_PREFIX = "gdb:"


@dataclass(frozen=True)
class Target:
    """Physical memory, the kernel that runs in it, and the notes of an ELF core."""

    memory: Memory
    kernel: Kernel
    source: Source
    notes: tuple[Note, ...] = ()

    def state(self) -> State:
        """Read the State."""
        return read_state(self.memory, self.kernel, self.source)


@contextmanager
def open_target(
    name: str,
    vmlinux: Path | None = None,
    modules: Path | None = None,
    profile: Path | None = None,
    debug: Path | None = None,
) -> Iterator[Target]:
    """Open a dump, `ram:FILE`, `gdb:HOST:PORT` or `sample:NAME`; close it at the end.

    What the memory tells of its kernel needs no file (see `open_kernel`).
    A live target is stopped while it is open, and runs on afterwards.

    Raises:
        NestscopeError: if it cannot be opened or runs another kernel, or a folder of the
            kernel's files is not there.
    """
    known = Profile.open(profile) if profile is not None else None
    for folder in (modules, debug):
        # It may not be needed in the end, but whoever names one that is not there should know.
        if folder is not None and not folder.is_dir():
            raise KernelError(f"{folder} is not a folder: give one that is there, or none")

    def examine(memory: Memory) -> Kernel:
        return open_kernel(memory, vmlinux, modules, debug_dir=debug, profile=known)

    if name.startswith(GDB_PREFIX):
        # Only here: reading a dump need not wait for the import of the GDB bridge.
        from nestscope.plugin.mi.memory import GdbMemory  # noqa: PLC0415
        from nestscope.plugin.mi.session import GdbSession  # noqa: PLC0415

        endpoint = name.removeprefix(GDB_PREFIX)
        endian = known.byteorder if known is not None and vmlinux is None else None
        with GdbSession.connect(endpoint, vmlinux, endian=endian) as session, session.stopped():
            gdb_memory = GdbMemory(session)
            yield Target(gdb_memory, examine(gdb_memory), Source("gdb", endpoint))
        return
    if name.startswith(SAMPLE_PREFIX):
        path = sample_path(name)
        if name == DEFAULT_SOURCE:
            sample = SAMPLE_PREFIX + path.name.removesuffix(SAMPLE_SUFFIX)
            print(f"nestscope: no SOURCE is given, this is {sample}", file=sys.stderr)
        name = str(path)
    memory, source = open_source(name)
    with memory:
        notes = tuple(memory.notes) if isinstance(memory, ElfCore) else ()
        if is_capture(notes):
            _check_same_build(name, notes, vmlinux, known)
            captured, kernel = open_capture(memory, notes)
            yield Target(captured, kernel, source, notes)
        else:
            yield Target(memory, examine(memory), source, notes)


def _check_same_build(
    name: str, notes: tuple[Note, ...], vmlinux: Path | None, profile: Profile | None
) -> None:
    """Compare files that were given with a capture, which needs none, with its kernel.

    Raises:
        KernelError: naming both builds, if they differ.
    """
    own = captured_profile(notes).build_id
    given = [(profile.build_id, "the profile")] if profile is not None else []
    if vmlinux is not None:
        given.append((ElfImage.open(vmlinux).build_id() or b"", str(vmlinux)))
    for build_id, what in given:
        if build_id and own and build_id != own:
            raise KernelError(
                f"{name} is a capture of build {own.hex()}, but {what} is of build "
                f"{build_id.hex()}; a capture needs neither --vmlinux nor --profile"
            )
