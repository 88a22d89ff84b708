"""All corruptions."""

from nestscope.plugin.differential.corruptions.objects import OBJECT_CORRUPTIONS
from nestscope.plugin.differential.corruptions.rmap_words import RMAP_CORRUPTIONS
from nestscope.plugin.differential.corruptions.tree_words import TREE_CORRUPTIONS

CORRUPTIONS = (*RMAP_CORRUPTIONS, *TREE_CORRUPTIONS, *OBJECT_CORRUPTIONS)

UNREACHABLE = {
    "I5.form": "no word or list in memory reads as such a chain; a State document can have it",
    "I6.lpid-range": "an idr or array has no more keys; a nested guest only a vCPU has may",
    "rmap.long-walk": "it takes a million nodes",
    "rmap.long-chain": "it takes 64 nodes, and is legal",
}
"""Rules that no corruption of a small scene fires, and why; tests lay out memory that does."""
