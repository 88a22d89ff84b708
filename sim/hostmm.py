"""The VMM's memory on the host: anonymous, private, base pages only.

Each page is absent, the shared zero page (after a read) or a private frame
(after a write). Frames are abstract numbers that are never used twice; a frame
that was never written reads as zeros.
"""

from collections.abc import Callable

ZERO_FRAME = 1
"""The shared zero page; 0 is never a frame."""

Invalidate = Callable[[int, int], None]


class HostMemory:
    """Pages of the VMM's address space; addresses are host virtual (hva), in bytes.

    `invalidate(start, end)` is the MMU notifier: called with a page-aligned hva
    range before its translations change.
    """

    __slots__ = ("contents", "invalidate", "next_frame", "page_shift", "page_size", "pages")

    def __init__(self, page_shift: int, invalidate: Invalidate) -> None:
        self.page_shift = page_shift
        self.page_size = 1 << page_shift
        self.pages: dict[int, int] = {}
        self.contents: dict[int, bytearray] = {}
        self.next_frame = ZERO_FRAME + 1
        self.invalidate = invalidate

    def read_fault(self, page: int) -> int:
        """Return the frame of `page` for reading; an absent page gets the zero page.

        `do_anonymous_page` without FAULT_FLAG_WRITE: no notifier is called.
        """
        return self.pages.setdefault(page, ZERO_FRAME)

    def write_fault(self, page: int) -> int:
        """Return the private frame of `page`; an absent or zero page gets a new one.

        `do_anonymous_page` for an absent page (no notifier), `wp_page_copy` for
        the zero page, which notifies before it changes the translation.
        """
        frame = self.pages.get(page)
        if frame is not None and frame != ZERO_FRAME:
            return frame
        if frame == ZERO_FRAME:
            self.invalidate(page << self.page_shift, (page + 1) << self.page_shift)
        frame = self.next_frame
        self.next_frame += 1
        self.pages[page] = frame
        return frame

    def is_writable(self, page: int) -> bool:
        """Whether `get_user_page_fast_only(FOLL_WRITE)` succeeds: a private frame is there."""
        return self.pages.get(page, ZERO_FRAME) != ZERO_FRAME

    def read(self, hva: int, length: int) -> bytes:
        """Read as user space or `copy_from_user` does: absent pages become the zero page."""
        result = bytearray()
        while length:
            offset = hva & (self.page_size - 1)
            part = min(length, self.page_size - offset)
            frame = self.pages.get(hva >> self.page_shift)
            if frame is None:
                frame = self.read_fault(hva >> self.page_shift)
            content = self.contents.get(frame)
            result += bytes(part) if content is None else content[offset : offset + part]
            hva += part
            length -= part
        return bytes(result)

    def write(self, hva: int, data: bytes) -> None:
        """Write as user space or `copy_to_user` does: every page becomes private."""
        while data:
            offset = hva & (self.page_size - 1)
            part = min(len(data), self.page_size - offset)
            self.write_frame(self.write_fault(hva >> self.page_shift), offset, data[:part])
            hva += part
            data = data[part:]

    def write_frame(self, frame: int, offset: int, data: bytes) -> None:
        """Change the contents of a private frame."""
        content = self.contents.get(frame)
        if content is None:
            content = self.contents[frame] = bytearray(self.page_size)
        content[offset : offset + len(data)] = data

    def read_frame(self, frame: int, offset: int, length: int) -> bytes:
        """Return contents of a frame: zeros where nothing was ever written."""
        content = self.contents.get(frame)
        return bytes(length) if content is None else bytes(content[offset : offset + length])

    def discard(self, hva: int, length: int) -> None:
        """Make whole pages absent: madvise(MADV_DONTNEED), `zap_page_range_single`.

        The notifier is called for the range even when nothing is there.
        """
        self.invalidate(hva, hva + length)
        first, last = hva >> self.page_shift, (hva + length) >> self.page_shift
        for page in range(first, last):
            frame = self.pages.pop(page, None)
            if frame is not None and frame != ZERO_FRAME:
                self.contents.pop(frame, None)
