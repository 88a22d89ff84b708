"""Walks of the kernel's doubly linked lists: bounded, and safe against cycles."""

from collections.abc import Iterator

from nestscope.decoders.errors import NestscopeError, UnreadableMemoryError
from nestscope.decoders.kernel.memory import KernelMemory


class ListError(NestscopeError):
    """A linked list is cyclic, too long, or leads into unreadable memory."""

    def __init__(self, message: str, address: int) -> None:
        super().__init__(message)
        self.address = address


def list_entries(memory: KernelMemory, head: int, offset: int, limit: int) -> Iterator[int]:
    """Yield the address of each structure on the `list_head` at `head`.

    `offset` is that of the list_head inside the structure (`container_of`).

    Raises:
        ListError: after the good entries, if the list does not come back to its
            head, or has more than `limit` entries.
    """
    seen = {head}
    node = head
    while True:
        try:
            following = memory.u64(node)  # `next` is the first member
        except UnreadableMemoryError as error:
            raise ListError(
                f"the list at {head:#x} leads to {node:#x}, which cannot be read: {error.why}", node
            ) from error
        if following == head:
            return
        if following in seen:
            raise ListError(f"the list at {head:#x} is a cycle at {following:#x}", following)
        if len(seen) > limit:
            raise ListError(f"the list at {head:#x} has more than {limit} entries", following)
        seen.add(following)
        yield following - offset
        node = following
