"""Single structures of the kernel, written member by member."""

from collections.abc import Mapping, Sequence

from nestscope.decoders.kernel.byteorder import ByteOrder
from nestscope.decoders.kernel.memory import LINEAR_START
from nestscope.decoders.kernel.types import Types
from nestscope.sim.image.arena import Arena, linear
from nestscope.sim.image.errors import ImageError


class Structures:
    """Lays structures out in the linear map, by `types` and in the kernel's byte order."""

    def __init__(self, types: Types, arena: Arena, byteorder: ByteOrder) -> None:
        self.types = types
        self.arena = arena
        self.byteorder = byteorder

    def make(self, name: str, values: Mapping[str, int | None], extra: int = 0) -> int:
        """Lay out a structure, everything else 0; return its kernel address.

        `extra` bytes follow it, for a flexible array.

        Raises:
            UnknownTypeError: if the structure or a member is not described.
            ImageError: if a value is unknown (None) or does not fit.
        """
        address = linear(self.arena.allocate(self.types.struct(name).size + extra))
        self.fill(name, address, values)
        return address

    def fill(self, name: str, address: int, values: Mapping[str, int | None]) -> None:
        """Write members of the structure at `address`.

        Raises:
            UnknownTypeError: if a member is not described.
            ImageError: if a value is unknown (None) or does not fit.
        """
        for path, value in values.items():
            member = self.types.member(name, path)
            if value is None:
                raise ImageError(f"struct {name}: its {path} is unknown, so it cannot be laid out")
            bits = 8 * member.size
            low, high = (-(1 << bits - 1), 1 << bits - 1) if member.signed else (0, 1 << bits)
            if member.kind not in ("int", "pointer", "enum") or not low <= value < high:
                raise ImageError(f"struct {name}: its {path} cannot hold {value:#x}")
            data = value.to_bytes(member.size, self.byteorder, signed=member.signed)
            self.arena.write(address + member.offset - LINEAR_START, data)

    def fill_present(self, name: str, address: int, values: Mapping[str, int | None]) -> None:
        """Write those of the members that these types have."""
        present = {path: value for path, value in values.items() if self.types.has(name, path)}
        self.fill(name, address, present)

    def at(self, name: str, address: int, path: str) -> int:
        """Return the address of a member of the structure at `address`."""
        return address + self.types.offset(name, path)

    def ring(self, head: int, nodes: Sequence[int]) -> None:
        """Link `struct list_head`s at these addresses into a ring."""
        circle = [head, *nodes]
        for number, node in enumerate(circle):
            following = circle[(number + 1) % len(circle)]
            self.fill("list_head", node, {"next": following, "prev": circle[number - 1]})

    def hash_list(self, head: int, nodes: Sequence[int]) -> None:
        """Put `struct hlist_node`s on the `struct hlist_head` at `head`."""
        before = self.at("hlist_head", head, "first")
        self.fill("hlist_head", head, {"first": nodes[0] if nodes else 0})
        for number, node in enumerate(nodes):
            following = nodes[number + 1] if number + 1 < len(nodes) else 0
            self.fill("hlist_node", node, {"next": following, "pprev": before})
            before = self.at("hlist_node", node, "next")

    def red_black_tree(self, root: int, nodes: Sequence[int]) -> None:
        """Link `struct rb_node`s, given in key order, under the `struct rb_root` at `root`."""
        # Balanced, so only the last level can be incomplete: it is red, all above is black.
        red_depth = len(nodes).bit_length() - 1 if (len(nodes) + 1) & len(nodes) else -1
        top = self._subtree(nodes, 0, 0, red_depth)
        self.fill("rb_root", root, {"rb_node": top})

    def _subtree(self, nodes: Sequence[int], parent: int, depth: int, red_depth: int) -> int:
        if not nodes:
            return 0
        middle = len(nodes) // 2
        node = nodes[middle]
        left = self._subtree(nodes[:middle], node, depth + 1, red_depth)
        right = self._subtree(nodes[middle + 1 :], node, depth + 1, red_depth)
        black = depth != red_depth
        values = {"__rb_parent_color": parent | black, "rb_left": left, "rb_right": right}
        self.fill("rb_node", node, values)
        return node
