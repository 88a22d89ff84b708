"""nestscope: see, check and prove what KVM-HV on POWER does with nested guests."""

from importlib.metadata import version

__version__ = version("nestscope")
