"""A kernel that the lab can boot: an ELF vmlinux and a folder with its modules."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class KernelFiles:
    """`modules_dir` is searched below for `NAME.ko` and its packed forms.

    `mended` are numbers of the findings that this kernel does not have (`HostFacts.mended`).
    """

    name: str
    release: str
    vmlinux: Path
    modules_dir: Path
    mended: frozenset[str] = frozenset()
