"""The kernel behind a live GDB target: from GDB's own types, files, a profile, or memory."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from nestscope.decoders.kernel.files import knowledge_of_files
from nestscope.decoders.kernel.kernel import Kernel, kernel_of, open_kernel
from nestscope.decoders.kernel.knowledge import Knowledge, check_against
from nestscope.decoders.kernel.profile import Profile
from nestscope.decoders.kernel.shipped import stored_profile
from nestscope.decoders.kernel.types import LayoutSource, Struct
from nestscope.decoders.sources.protocol import Memory
from nestscope.plugin.gdb.worker.gdb_side import GdbSide
from nestscope.plugin.gdb.worker.gdb_types import GdbTypes


@dataclass(frozen=True)
class KernelFiles:
    """What describes the kernel: GDB's symbol file, and the user's `set nested` settings."""

    vmlinux: Path | None = None
    modules: Path | None = None
    profile: Path | None = None
    debug: Path | None = None


def open_live_kernel(gdb: GdbSide, physical: Memory, files: KernelFiles) -> tuple[Kernel, str]:
    """Examine the kernel of a live target; say where its types come from.

    GDB's types are used when it has those of the KVM modules, else files, a profile, or
    the BTF in memory (see `open_kernel`).

    Raises:
        NestscopeError: if the kernel cannot be examined; one sentence says why.
    """
    types = GdbTypes(gdb)
    if files.vmlinux is not None and files.profile is None and types.complete:
        known = _with_types_of_gdb(files.vmlinux, files, types)
        return kernel_of(physical, check_against(physical, known)), "GDB's debug information"
    profile = Profile.open(files.profile) if files.profile is not None else None
    kernel = open_kernel(
        physical, files.vmlinux, files.modules, debug_dir=files.debug, profile=profile
    )
    return kernel, _described(kernel.known)


def _with_types_of_gdb(vmlinux: Path, files: KernelFiles, types: GdbTypes) -> Knowledge:
    """Return what the files say, with GDB's types before their own.

    A profile that comes with the package has the symbols of modules that a kernel
    without CONFIG_KALLSYMS_ALL does not keep, and types where the files have none.
    """
    known = knowledge_of_files(vmlinux, files.modules, without_types=True)
    profile = None if known.build_id is None else stored_profile(known.build_id)
    if profile is not None:
        symbols = {**profile.module_symbols, **known.module_symbols}
        return replace(known, layouts=(types, profile), module_symbols=symbols)
    return replace(known, layouts=(types, _LayoutsOfFiles(vmlinux, files)))


class _LayoutsOfFiles:
    """The files' own type information, read when GDB lacks a type. Satisfies `LayoutSource`."""

    def __init__(self, vmlinux: Path, files: KernelFiles) -> None:
        self._vmlinux = vmlinux
        self._files = files

    @cached_property
    def _layouts(self) -> tuple[LayoutSource, ...]:
        return knowledge_of_files(self._vmlinux, self._files.modules, self._files.debug).layouts

    def find(self, name: str) -> Struct | None:
        """Return the struct, union or typedef of one called `name`, or None."""
        found = (layout.find(name) for layout in self._layouts)
        return next((struct for struct in found if struct is not None), None)


def _described(known: Knowledge | None) -> str:
    if known is None:
        return "unknown"
    kinds = sorted({type(layout).__name__.upper() for layout in known.layouts})
    return f"{', '.join(kinds) or 'nothing'} ({known.name})"
