"""nestscope: see, check and prove what KVM-HV on POWER does with nested guests."""

from importlib import import_module


def __getattr__(name: str) -> str:
    """Return `__version__` when it is asked for: to look it up costs 30 ms at every start."""
    if name == "__version__":
        return str(import_module("importlib.metadata").version("nestscope"))
    raise AttributeError(f"module nestscope has no attribute {name}")
