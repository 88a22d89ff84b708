"""Messages between GDB and the worker: JSON, with raw bytes after it.

A message is two lengths in bytes (unsigned, 32 bits, little-endian), then a JSON
object, then raw bytes.
"""

import json
import struct
from typing import Any, Dict, Optional, Tuple

Message = Dict[str, Any]

HEADER = struct.Struct("<II")
MAX_JSON = 512 << 20
MAX_RAW = 512 << 20


class WireError(Exception):
    """What came is no message of ours."""


def pack(message: Message, raw: bytes = b"") -> bytes:
    """Return the bytes of a message."""
    text = json.dumps(message).encode("utf-8")
    return HEADER.pack(len(text), len(raw)) + text + raw


class Unpacker:
    """Cuts a stream of bytes, fed in any pieces, into messages."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, data: bytes) -> None:
        """Take more bytes of the stream."""
        self._held += data

    def next(self) -> Optional[Tuple[Message, bytes]]:
        """Return the next whole message and its raw bytes, or None.

        Raises:
            WireError: if the stream holds something else.
        """
        if len(self._held) < HEADER.size:
            return None
        text_size, raw_size = HEADER.unpack_from(self._held)
        if text_size > MAX_JSON or raw_size > MAX_RAW:
            raise WireError("a message announces {} + {} bytes".format(text_size, raw_size))
        end = HEADER.size + text_size
        if len(self._held) < end + raw_size:
            return None
        try:
            message = json.loads(self._held[HEADER.size : end].decode("utf-8"))
        except ValueError as error:
            raise WireError("a message is no JSON: {}".format(error))
        if not isinstance(message, dict):
            raise WireError("a message is no JSON object")
        raw = bytes(self._held[end : end + raw_size])
        del self._held[: end + raw_size]
        return message, raw
