"""What can go wrong between us, GDB and the target; each a sentence for the user."""

from nestscope.decoders.errors import NestscopeError


class MiError(NestscopeError):
    """Base of every error of the GDB/MI bridge."""


class GdbMissingError(MiError):
    """The GDB program does not exist on this machine."""

    def __init__(self, program: str) -> None:
        super().__init__(
            f"{program} is not installed: install the package gdb-multiarch "
            "(Debian: apt install gdb-multiarch), or name another GDB that knows powerpc:common64"
        )


class GdbGoneError(MiError):
    """The GDB process ended while we still needed it."""


class GdbTimeoutError(MiError):
    """GDB, or the target behind it, did not answer before the deadline."""


class GdbCommandError(MiError):
    """GDB answered `command` with an error record; `reason` is its own message."""

    def __init__(self, command: str, reason: str) -> None:
        super().__init__(f"GDB refused `{command[:200]}`: {reason}")
        self.command = command
        self.reason = reason


class MiSyntaxError(MiError):
    """GDB wrote a line that is not a well-formed MI record."""


class TargetError(MiError):
    """The target cannot do what was asked in its present state."""


class TargetGoneError(TargetError):
    """The connection to the target is lost."""


class TargetRunningError(TargetError):
    """The target runs, so it cannot be read; stop it first."""
