"""The built-in scenario: every form of the rmap, and what makes and ends it."""

from nestscope.sim.layout import LAYOUT
from nestscope.sim.trace import parse

_TEXT = f"""
nestscope-trace 1
ptcr {LAYOUT.ptcr:#x}

# The first mapping of a guest page: a single entry. The nested guest's code
# page (its address 0) gets one, too.
map 1 0x1000000 0x900000 64K rwxRC
load 1 0x1000000

# A second nested guest maps the same guest page: a list, the newest first.
map 2 0x1000000 0x900000 64K rwxRC
load 2 0x1000000
# The same nested guest may map it again, at another address.
map 2 0x2000000 0x900000 64K rwxRC
store 2 0x2000000 0x1234

# A tlbie clears the shadow leaf and leaves the entry: it is stale, and legal.
tlbie ric=0 prs=0 r=1 is=0 lpid=2 ap=5 epn=0x1000
# The fault after it finds the entry there: a duplicate is not inserted.
load 2 0x1000000

# What the guest's own tree forbids is the guest's to handle: nothing changes.
map 3 0x3000000 0x910000 64K rR
load 3 0x3000000
store 3 0x3000000 0x99
load 3 0x4000000

# The host takes a page away: all its leaves and the whole chain must go.
discard 0x900000 0x10000
# Read again, it is the host's zero page, mapped read-only.
load 1 0x1000000
load 2 0x1000000
# A store breaks the copy-on-write: the chain goes, one entry comes back.
store 2 0x2000000 0x5678
load 1 0x1000000

# A nested guest ends: its shadow tree goes, its entries stay behind, stale.
drop 3
"""

SCENARIO = tuple(parse(_TEXT.strip()))
"""The operations of the scenario, in order."""
