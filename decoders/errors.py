"""Errors that reach a user: one sentence with the place and what to do."""


class NestscopeError(Exception):
    """Base of every error that nestscope raises on purpose.

    The text is one sentence for the user. The command line prints it on
    standard error and exits with status 2.
    """


class UnreadableMemoryError(NestscopeError):
    """Memory at `address` (`length` bytes) cannot be read from this source."""

    def __init__(self, address: int, length: int, why: str) -> None:
        super().__init__(f"{length} bytes at {address:#x} cannot be read: {why}")
        self.address = address
        self.length = length
        self.why = why
