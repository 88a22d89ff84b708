"""nestscope: see, check and prove what KVM-HV on POWER does with nested guests.

The library in one line: `nestscope.open(source)`, then `.state()` and `.walk(address)`;
`nestscope.compare` compares two States. See `nestscope.plugin.library`.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nestscope.decoders.state import State
    from nestscope.plugin.library import Differences, Opened

__all__ = ["compare", "open"]


def open(  # noqa: A001  the name that other libraries have for it
    source: str,
    *,
    vmlinux: "str | Path | None" = None,
    modules: "str | Path | None" = None,
    profile: "str | Path | None" = None,
    debug: "str | Path | None" = None,
) -> "Opened":
    """Open a dump, `ram:FILE`, `gdb:HOST:PORT` or `sample:NAME`; close it, or use `with`.

    Raises:
        NestscopeError: if it cannot be opened; the text says what to do.
    """
    # Here, so that to import the package costs nothing.
    from nestscope.plugin.library import open_source

    return open_source(source, vmlinux=vmlinux, modules=modules, profile=profile, debug=debug)


def compare(expected: "State", observed: "State") -> "Differences":
    """Return how two States differ, up to a one-to-one renaming of host addresses."""
    from nestscope.plugin.library import compare as compare_states

    return compare_states(expected, observed)


def __getattr__(name: str) -> str:
    """Return `__version__` when it is asked for: to look it up costs 30 ms at every start."""
    if name == "__version__":
        return str(import_module("importlib.metadata").version("nestscope"))
    raise AttributeError(f"module nestscope has no attribute {name}")
