"""The catalogue of mutants: the model wrong in one line's worth, each time another.

A mutant that repeats a defect which Linux once had names its fix in `history`.
"""

from tests.mutants.catalogue.chains import REMOVAL, RMAP
from tests.mutants.catalogue.entry import ENTRY
from tests.mutants.catalogue.faults import FAULTS, REFERENCE_AND_CHANGE
from tests.mutants.catalogue.host import HOST
from tests.mutants.catalogue.invalidation import INVALIDATION, SLOTS

MUTANTS = (
    *RMAP,
    *REMOVAL,
    *REFERENCE_AND_CHANGE,
    *FAULTS,
    *INVALIDATION,
    *SLOTS,
    *ENTRY,
    *HOST,
)
"""All mutants."""
