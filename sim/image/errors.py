"""Errors of the memory image."""

from nestscope.decoders.errors import NestscopeError


class ImageError(NestscopeError):
    """The State cannot be laid out as memory: no kernel could hold it."""
