"""Errors of the model."""

from nestscope.decoders.errors import NestscopeError


class UnmodelledError(NestscopeError):
    """The event leads where the model has no specification, so it predicts nothing."""

    def __init__(self, what: str) -> None:
        super().__init__(f"the model does not cover this: {what}")
        self.what = what


class HostDamageError(UnmodelledError):
    """The host damages itself here: nothing that follows can be predicted.

    `finding` is the number of the account under docs/findings.
    """

    def __init__(self, finding: str, what: str) -> None:
        super().__init__(f"{what} (finding {finding})")
        self.finding = finding


class GuestLayoutError(NestscopeError):
    """The guest cannot do this operation with the memory that it has."""
