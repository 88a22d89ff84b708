"""`nestscope capture` and `nestscope convert`: dumps written from other dumps."""

from pathlib import Path
from typing import Annotated

import typer

from nestscope.plugin.cli.options import (
    DebugFolder,
    Modules,
    ProfileFile,
    SourceName,
    Vmlinux,
)

Output = Annotated[
    Path, typer.Option("--output", "-o", help="The file to write; .xz packs a capture.")
]


def capture(
    source: SourceName,
    output: Output,
    vmlinux: Vmlinux = None,
    modules: Modules = None,
    profile: ProfileFile = None,
    debug: DebugFolder = None,
) -> None:
    """Write the smallest dump that state, walk and check need; it describes its own kernel.

    It holds translation tables, rmap chains and KVM's structures, and no data of guests.

    Example: nestscope capture dump.elf -o bug.elf.xz
    """
    from nestscope.plugin.dumps.capture import capture as make
    from nestscope.plugin.dumps.capture import write_capture
    from nestscope.plugin.present.units import counted
    from nestscope.plugin.target import open_target

    _refuse_to_overwrite_itself(source, output)
    with open_target(source, vmlinux, modules, profile, debug) as target:
        made = make(target.memory, target.kernel, target.source, target.notes)
        size = write_capture(made, target.memory, target.kernel, output)
    print(
        f"{output}: {size} bytes, {made.size >> 10} KiB of memory in {len(made.ranges)} pieces, "
        f"{counted(len(made.state.vms), 'VM')}"
    )


def convert(
    source: SourceName,
    output: Output,
    vmlinux: Vmlinux = None,
    modules: Modules = None,
    profile: ProfileFile = None,
    debug: DebugFolder = None,
) -> None:
    """Write a whole dump so that drgn, crash and libkdumpfile open it.

    The headers get the kernel's byte order, and VMCOREINFO is found in the memory.

    Example: nestscope convert qemu.dump -o vmcore
    """
    from nestscope.decoders.errors import NestscopeError
    from nestscope.decoders.sources.source_memory import SourceMemory
    from nestscope.plugin.dumps.convert import convert as rewrite
    from nestscope.plugin.target import open_target

    _refuse_to_overwrite_itself(source, output)
    with open_target(source, vmlinux, modules, profile, debug) as target:
        if not isinstance(target.memory, SourceMemory):
            raise NestscopeError(
                f"{source} cannot be converted whole; dump it with QEMU's dump-guest-memory first"
            )
        written, missing = rewrite(target.memory, target.kernel, output)
    note = f", {missing} of them could not be read and are zero" if missing else ""
    print(f"{output}: {written} bytes of memory{note}")


def _refuse_to_overwrite_itself(source: str, output: Path) -> None:
    from nestscope.decoders.errors import NestscopeError

    path = Path(source.removeprefix("ram:"))
    if output.exists() and path.exists() and output.samefile(path):
        raise NestscopeError(f"{output} is the source itself; give another name with -o")
