"""Keep a lab machine's state as a capture: what a finding or a difference leaves behind."""

from pathlib import Path

from nestscope.decoders.kernel.kernel import open_kernel
from nestscope.decoders.sources.ram import RamFile
from nestscope.decoders.state import Source
from nestscope.plugin.dumps.capture import capture, write_capture
from nestscope.plugin.qemu.lab import Lab


def keep_capture(lab: Lab, path: Path) -> None:
    """Write a capture of the machine as it is now; it is packed as its name says.

    Raises:
        NestscopeError: if the machine's memory cannot be read any more.
        OSError: if the file cannot be written.
    """
    with RamFile(lab.ram_path) as memory:
        kernel = open_kernel(memory, lab.kernel.vmlinux, lab.kernel.modules_dir)
        kept = capture(memory, kernel, Source("ram", str(lab.ram_path)), ())
        write_capture(kept, memory, kernel, path)
