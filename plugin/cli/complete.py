"""What the shell offers when a user presses Tab. File names are the shell's own."""

from collections.abc import Iterable


def kernels(incomplete: str) -> list[str]:
    """Return the names of kernels that begin so."""
    from nestscope.plugin.qemu.kernels import cached_names

    return _beginning(incomplete, cached_names())


def machines(incomplete: str) -> list[str]:
    """Return the names of machines that begin so."""
    from nestscope.plugin.qemu.machine import MACHINES

    return _beginning(incomplete, MACHINES)


def sources(incomplete: str) -> list[str]:
    """Return the samples that begin so; nothing for a file, which the shell completes."""
    from nestscope.plugin.samples import SAMPLE_PREFIX, sample_names

    if not incomplete or not SAMPLE_PREFIX.startswith(incomplete[: len(SAMPLE_PREFIX)]):
        return []
    return _beginning(incomplete, [SAMPLE_PREFIX + name for name in sample_names()])


def _beginning(incomplete: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]
