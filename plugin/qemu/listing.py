"""The kernel's own print of a VM's radix trees: debugfs, `kvm/*/radix`.

An oracle for leaves that owes nothing to our readers: `debugfs_radix_read`
(book3s_64_mmu_radix.c) walks the trees in the kernel. It starts its round of
nested guests behind LPID 0, so a nested guest 0 is never in it.
"""

import re

from nestscope.decoders.state import Leaves

HOST_TREE = None
"""Key of the host's own tree; nested guests have their l1_lpid."""

_HEADING = re.compile(r"(?:Nested LPID (?P<lpid>\d+): )?pgdir:")
_LEAF = re.compile(r"\s*(?P<address>[0-9a-f]+): (?P<pte>[0-9a-f]+) (?P<shift>\d+)")


def parse_listing(text: str) -> dict[int | None, Leaves]:
    """Return the leaves of each tree: `HOST_TREE` or l1_lpid to leaves."""
    trees: dict[int | None, list[tuple[int, int, int]]] = {}
    leaves: list[tuple[int, int, int]] = []
    for line in text.splitlines():
        if heading := _HEADING.match(line):
            lpid = heading["lpid"]
            leaves = trees.setdefault(HOST_TREE if lpid is None else int(lpid), [])
        elif leaf := _LEAF.fullmatch(line):
            leaves.append((int(leaf["address"], 16), int(leaf["shift"]), int(leaf["pte"], 16)))
    return {key: Leaves.build(found) for key, found in trees.items()}
