"""Host pages as abstract frame numbers, and what they hold.

Numbers are never used twice; those of a huge page are consecutive and aligned. A frame
that was never written reads as zeros.
"""

ZERO_FRAME = 1
"""The shared zero page; 0 is never a frame."""


class Frames:
    """Frames of one host; `page_shift` is log2 of the size of one in bytes.

    `contents`: bytes of the frames that were written. `next_frame`: the first unused number.
    """

    __slots__ = ("contents", "next_frame", "page_shift", "page_size")

    def __init__(self, page_shift: int, first_frame: int) -> None:
        self.page_shift = page_shift
        self.page_size = 1 << page_shift
        self.contents: dict[int, bytearray] = {}
        self.next_frame = first_frame

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

    def is_zero(self, frame: int) -> bool:
        """Return whether a frame holds nothing but zeros."""
        return not any(self.contents.get(frame, b""))

    def move_contents(self, old: int, new: int) -> None:
        """Give the contents of one frame to another."""
        content = self.contents.pop(old, None)
        if content is not None:
            self.contents[new] = content

    def fresh_block(self, shift: int) -> int:
        """Return the first of the frames of a new huge page, aligned as its size."""
        count = 1 << shift - self.page_shift
        first = (self.next_frame + count - 1) & -count
        self.next_frame = first + count
        return first
