"""Kdump-compressed dumps with their pages read by libkdumpfile (`kdumpfile:FILE`).

For whoever has the library but not the Python packages of lzo, snappy or zstd, or
wants a second opinion. It is not what a plain file name gets, because a source of ours
must survive any file. Version 0.5.1 maps 4 MiB whatever the file's length and copies from
behind its end (SIGBUS in `kdump_open_fdset`; in `kdump_read`, too, but for what is checked
here before), and follows a null pointer in `kdump_free` (SIGSEGV): 2 of 1499 mutated dumps
ended the process so.

The headers and the bitmap are read by `kdump`, which checks them, so a page that is
not in the dump is never asked for. C interface: libkdumpfile/kdumpfile.h.
"""

import ctypes
import ctypes.util
import os
from functools import cache
from pathlib import Path

from nestscope.decoders.sources.flattened import is_flattened
from nestscope.decoders.sources.kdump import KdumpFile
from nestscope.decoders.sources.mapped import FileMemory, MappedFile, Segment, SourceFileError

_MACHINE_PHYSICAL = 1  # KDUMP_MACHPHYSADDR


class LibKdumpFile(KdumpFile):
    """Physical memory from a kdump-compressed dump, unpacked by libkdumpfile."""

    kind = "libkdumpfile"

    def __init__(self, path: Path) -> None:
        """Open `path`, which should come from somebody you trust.

        Raises:
            SourceFileError: if the library is not installed, or either it or our own
                reader does not take the file.
        """
        library = _library()
        file = MappedFile(path)
        if is_flattened(file):
            file.close()
            raise SourceFileError(
                f"{path} is flattened, which libkdumpfile does not read: put it in order with "
                "'makedumpfile -R', or give the file without 'kdumpfile:'"
            )
        super().__init__(FileMemory(file, [Segment(0, 0, file.size)]))
        self._library = library
        self._file = os.open(path, os.O_RDONLY)
        self._context: int | None = library.kdump_new()
        if self._context is None or library.kdump_open_fdset(
            self._context, 1, (ctypes.c_int * 1)(self._file)
        ):
            why = self._error()
            self.close()
            raise SourceFileError(f"libkdumpfile does not open {path}: {why}")

    def _load(self, number: int) -> bytes:
        address = number * self.page_size
        # The library maps the file and copies from behind its end: SIGBUS.
        self._packed(number)
        page = ctypes.create_string_buffer(self.page_size)
        length = ctypes.c_size_t(self.page_size)
        status = self._library.kdump_read(
            self._context, _MACHINE_PHYSICAL, address, page, ctypes.byref(length)
        )
        if status or length.value != self.page_size:
            raise self._unreadable(address, f"libkdumpfile says: {self._error()}")
        return page.raw

    def _error(self) -> str:
        if self._context is None:
            return "out of memory"
        return str((self._library.kdump_get_err(self._context) or b"").decode(errors="replace"))

    def close(self) -> None:
        """Close the file; reading is an error afterwards. Closing twice is harmless."""
        super().close()
        if self._context is not None:
            self._library.kdump_free(self._context)
            self._context = None
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


@cache
def _library() -> ctypes.CDLL:
    """Return libkdumpfile with its functions described.

    Raises:
        SourceFileError: if it is not installed.
    """
    name = ctypes.util.find_library("kdumpfile")
    try:
        if name is None:
            raise OSError("no such library")
        library = ctypes.CDLL(name)
        library.kdump_new.restype = ctypes.c_void_p
        library.kdump_free.argtypes = [ctypes.c_void_p]
        library.kdump_get_err.restype = ctypes.c_char_p
        library.kdump_get_err.argtypes = [ctypes.c_void_p]
        library.kdump_open_fdset.argtypes = [
            ctypes.c_void_p,
            ctypes.c_uint,
            ctypes.POINTER(ctypes.c_int),
        ]
        library.kdump_read.argtypes = [
            ctypes.c_void_p,
            ctypes.c_int,
            ctypes.c_uint64,
            ctypes.c_char_p,
            ctypes.POINTER(ctypes.c_size_t),
        ]
    except (OSError, AttributeError) as error:
        raise SourceFileError(
            f"libkdumpfile cannot be used ({error}): install it (Debian: libkdumpfile10), or give "
            "the file without 'kdumpfile:'"
        ) from error
    return library
