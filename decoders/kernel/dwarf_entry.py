"""Whether a DWARF entry may start at a place: its number, its abbreviation, where it leads."""

from typing import IO, Any

from elftools.dwarf.die import DIE

from nestscope.decoders.kernel.elf_image import DAMAGE

STRUCT_TAGS = frozenset({"DW_TAG_structure_type", "DW_TAG_union_type"})
_UNIT_REFERENCES = frozenset(
    {"DW_FORM_ref1", "DW_FORM_ref2", "DW_FORM_ref4", "DW_FORM_ref8", "DW_FORM_ref_udata"}
)


def is_type_with_name(declaration: Any) -> bool:
    """Say whether an abbreviation is of a complete, named type whose name comes first."""
    specs = declaration["attr_spec"]
    if not specs or specs[0].name != "DW_AT_name":
        return False
    if declaration["tag"] == "DW_TAG_typedef":
        return True
    return declaration["tag"] in STRUCT_TAGS and any(
        spec.name == "DW_AT_byte_size" for spec in specs
    )


def uleb(data: bytes) -> int:
    """Return the ULEB128 number that is exactly `data`, or 0."""
    if not data or data[-1] & 0x80 or not all(byte & 0x80 for byte in data[:-1]):
        return 0
    return sum((byte & 0x7F) << 7 * at for at, byte in enumerate(data))


def stays_inside(cu: Any, stream: IO[bytes], at: int, unit: range) -> bool:
    """Say whether the references of the entry at `at` lead where an entry's may lead.

    Four bytes of a unit are soon those of a name by chance, and the byte before them
    an abbreviation's number; but then sibling and type lead anywhere. `unit` is where
    the unit lies in `.debug_info`.
    """
    try:
        attributes = DIE(cu, stream, at).attributes
        for name, first in (("DW_AT_sibling", at + 1), ("DW_AT_type", unit.start)):
            reference = attributes.get(name)
            if reference is None or reference.form not in _UNIT_REFERENCES:
                continue
            place = reference.value + cu.cu_offset
            if not first <= place < unit.stop:
                return False
            if name == "DW_AT_type" and not _is_type(DIE(cu, stream, place).tag):
                return False
    except DAMAGE:
        return False
    return True


def _is_type(tag: object) -> bool:
    text = str(tag)
    return text.endswith("_type") or text == "DW_TAG_typedef"
