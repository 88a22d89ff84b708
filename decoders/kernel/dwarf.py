"""DWARF type information: of vmlinux, of modules, and of separate debug files.

Only the structs that are asked for are decoded. A kernel has some 160 MB of
`.debug_info`, so a name is searched for as bytes first, and only a compilation
unit that may describe it is parsed. Format: DWARF 5, section 7; version 4 differs
in nothing that matters here. Reading of entries: pyelftools.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator
from functools import partial
from io import BytesIO
from itertools import count, islice
from typing import IO

import numpy as np
from elftools.dwarf.die import DIE
from elftools.elf.elffile import ELFFile

from nestscope.decoders.errors import NestscopeError
from nestscope.decoders.kernel.byteorder import ByteOrder, prefix
from nestscope.decoders.kernel.dwarf_entry import (
    STRUCT_TAGS,
    is_type_with_name,
    stays_inside,
    uleb,
)
from nestscope.decoders.kernel.elf_image import DAMAGE, ElfImage
from nestscope.decoders.kernel.types import Kind, Member, Struct

MAX_MEMBERS = 100_000
MAX_DEPTH = 32  # of typedef chains and of anonymous structs inside each other
MAX_PLACES = 200_000  # where one name's string is referred to
MAX_UNITS = 1 << 20
MAX_PARSED = 8  # units that one name may cost; a unit takes half a second
MAX_KEPT = 64
_MAX_STRINGS = 256  # equal ends of strings are stored once, so a name may occur in many
_R_PPC64_ADDR32 = 1
_RELA = [("offset", "u8"), ("type", "u4"), ("symbol", "u4"), ("addend", "i8")]
_SHORT_NAME = 4  # GCC writes a string of up to 4 bytes, NUL included, in place

_CODE_BYTES = (1, 2, 3)  # an entry starts with its abbreviation's number, ULEB128
_TRANSPARENT = frozenset(
    {"DW_TAG_typedef", "DW_TAG_const_type", "DW_TAG_volatile_type", "DW_TAG_restrict_type"}
)
_SIGNED = frozenset({5, 6, 13})  # DW_ATE_signed, signed_char, signed_fixed
_FLOATS = frozenset({3, 4})  # DW_ATE_complex_float, float


class DwarfError(NestscopeError):
    """DWARF bytes that are damaged, or of a form that is not read."""


class Dwarf:
    """The types of one file's DWARF. Satisfies `LayoutSource`."""

    def __init__(self, image: ElfImage) -> None:
        """Take the debug sections of `image`, and apply a module's relocations.

        Raises:
            DwarfError: if it has none, or they are damaged.
        """
        self.name = image.name
        try:
            self._load(image)
        except DAMAGE as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> DwarfError:
        why = f"{type(error).__name__}: {error}"
        return DwarfError(f"the DWARF of {self.name} is damaged ({why}); give an intact debug file")

    def _load(self, image: ElfImage) -> None:
        elf = ELFFile(BytesIO(image.data))
        # pyelftools needs seconds for a module's 100 000 relocations; `_relocated` does not.
        info = elf.get_dwarf_info(relocate_dwarf_sections=False)
        if info is None or info.debug_info_sec is None or info.debug_abbrev_sec is None:
            raise DwarfError(f"{self.name} has no DWARF; give a file with debug information")
        raw = _all(info.debug_info_sec.stream)
        self._info = _relocated(raw, image)
        info.debug_info_sec.stream.close()
        self._info_stream = BytesIO(self._info)
        info.debug_info_sec = info.debug_info_sec._replace(stream=self._info_stream)
        strings = info.debug_str_sec
        self._strings = _all(strings.stream) if strings is not None else b""
        self._dwarf = info
        self._byteorder = image.byteorder
        self._units = _unit_starts(self._info, image.byteorder)
        self._named: dict[int, dict[bytes, DIE]] = {}
        self._decoded: dict[int, Struct] = {}

    def find(self, name: str) -> Struct | None:
        """Return the struct, union or typedef of one called `name`, or None.

        Raises:
            DwarfError: if its description is damaged.
        """
        try:
            for named in self._units_with(name.encode()):
                resolved = self._resolve(named.get(name.encode()))
                if resolved is not None and _is_complete(resolved):
                    return self._struct(resolved, name)
        except DAMAGE as error:
            raise self._damaged(error) from error
        return None

    def _units_with(self, name: bytes) -> Iterator[dict[bytes, DIE]]:
        """Yield the named types of each unit that may describe `name`; known units first."""
        yield from list(self._named.values())
        budget = MAX_PARSED
        for place in islice(self._places(name), MAX_PLACES):
            unit = bisect_right(self._units, place) - 1
            if unit < 0 or unit in self._named or not self._may_start_entry(unit, place):
                continue
            if budget == 0 or len(self._named) >= MAX_KEPT:
                # Not "there is none": what was not looked at may describe it.
                raise DwarfError(
                    f"too many units of {self.name} may describe {name.decode()}; give a kernel "
                    "with BTF or a profile (--profile)"
                )
            budget -= 1
            self._named[unit] = self._parse_names(unit)
            yield self._named[unit]

    def _places(self, name: bytes) -> Iterator[int]:
        """Yield every place in `.debug_info` that holds `name` or refers to it."""
        wanted = name + b"\0"
        needles = [wanted] if len(wanted) <= _SHORT_NAME else []
        ends: list[bytes] = []
        at = self._strings.find(wanted)
        while at >= 0 and len(needles) + len(ends) < _MAX_STRINGS:
            # A whole string before the end of a longer one.
            whole = self._strings[at - 1 : at] in (b"", b"\0")
            (needles if whole else ends).append(at.to_bytes(4, self._byteorder))
            at = self._strings.find(wanted, at + 1)
        for needle in needles + ends:
            at = self._info.find(needle)
            while at >= 0:
                yield at
                at = self._info.find(needle, at + 1)

    def _may_start_entry(self, unit: int, place: int) -> bool:
        """Say whether the bytes before `place` may begin a type whose name is at `place`.

        This only keeps units out that have the name for something else; that an
        entry starts there is known when the unit has been parsed.
        """
        start, end = [*self._units, len(self._info)][unit : unit + 2]
        cu = self._dwarf.get_CU_at(start)
        table = cu.get_abbrev_table()
        for size in _CODE_BYTES:
            code = uleb(self._info[place - size : place])
            try:
                declaration = table.get_abbrev(code).decl if code else None
            except KeyError:
                continue
            if (
                declaration is not None
                and is_type_with_name(declaration)
                and stays_inside(cu, self._info_stream, place - size, range(start, end))
            ):
                return True
        return False

    def _parse_names(self, unit: int) -> dict[bytes, DIE]:
        """Return the complete structs and unions of a unit by name, and typedefs."""
        structs: dict[bytes, DIE] = {}
        typedefs: dict[bytes, DIE] = {}
        at = -1
        top = self._dwarf.get_CU_at(self._units[unit]).get_top_DIE()
        for die in top.iter_children():
            # A reference to the next entry may lead backwards in a damaged file.
            if die.offset <= at:
                raise DwarfError(f"the DWARF of {self.name} has entries in a cycle")
            at = die.offset
            name = die.attributes.get("DW_AT_name")
            if name is None:
                continue
            if _is_complete(die):
                structs.setdefault(name.value, die)
            elif die.tag == "DW_TAG_typedef":
                typedefs.setdefault(name.value, die)
        return typedefs | structs

    def _resolve(self, die: DIE | None) -> DIE | None:
        """Follow typedefs and qualifiers; None is void."""
        for _ in range(MAX_DEPTH):
            if die is None or die.tag not in _TRANSPARENT:
                return die
            die = _type_of(die)
        raise DwarfError(f"a type of {self.name} is a chain of typedefs without an end")

    def _struct(self, die: DIE, name: str) -> Struct:
        """Decode a struct or union, once."""
        known = self._decoded.get(die.offset)
        if known is None:
            members: dict[str, Member] = {}
            self._add_members(members, die, 0, 0, count())
            known = Struct(name, die.attributes["DW_AT_byte_size"].value, members)
            self._decoded[die.offset] = known
        return known

    def _add_members(
        self, members: dict[str, Member], die: DIE, base: int, depth: int, visited: "count[int]"
    ) -> None:
        """Add the members of `die`, which starts `base` bytes into the outer struct."""
        if depth > MAX_DEPTH:
            raise DwarfError(f"a struct of {self.name} nests too deeply")
        for child in die.iter_children():
            if next(visited) >= MAX_MEMBERS:
                raise DwarfError(f"a struct of {self.name} has too many members")
            if child.tag != "DW_TAG_member":
                continue
            offset, bits = self._place_of(child)
            attribute = child.attributes.get("DW_AT_name")
            if attribute is not None:
                name = attribute.value.decode("utf-8", "replace")
                members.setdefault(name, self._member(name, child, base + offset, bits))
                continue
            inner = self._resolve(_type_of(child))
            if inner is not None and _is_complete(inner):
                self._add_members(members, inner, base + offset, depth + 1, visited)

    def _place_of(self, die: DIE) -> tuple[int, tuple[int, int] | None]:
        """Return a member's byte offset and, of a bitfield, first bit and number of bits."""
        attributes = die.attributes
        location = attributes.get("DW_AT_data_member_location")
        offset = location.value if location is not None else 0
        if not isinstance(offset, int):
            raise DwarfError(f"a member in {self.name} has its offset as an expression")
        size = attributes.get("DW_AT_bit_size")
        if size is None:
            return offset, None
        first = attributes.get("DW_AT_data_bit_offset")
        if first is not None:
            return offset + first.value // 8, (first.value % 8, size.value)
        # DWARF 2 and 3 count from the most significant bit of the storage unit.
        unit, old = attributes.get("DW_AT_byte_size"), attributes.get("DW_AT_bit_offset")
        if unit is None or old is None:
            return offset, (0, size.value)
        from_top = old.value
        if self._byteorder == "little":
            from_top = 8 * unit.value - old.value - size.value
        return offset + from_top // 8, (from_top % 8, size.value)

    def _member(self, name: str, die: DIE, offset: int, bits: tuple[int, int] | None) -> Member:
        element = self._resolve(_type_of(die))
        dims: tuple[int, ...] = ()
        for _ in range(MAX_DEPTH):
            if element is None or element.tag != "DW_TAG_array_type":
                break
            dims += _dimensions(element)
            element = self._resolve(_type_of(element))
        attributes = element.attributes if element is not None else {}
        size = attributes["DW_AT_byte_size"].value if "DW_AT_byte_size" in attributes else 0
        type_name = (
            attributes["DW_AT_name"].value.decode("utf-8", "replace")
            if "DW_AT_name" in attributes
            else ""
        )
        kind, signed = _kind(element)
        if kind == "pointer":
            size, type_name = 8, ""
        total = size
        for dim in dims:
            total *= dim
        layout: Callable[[], Struct] | None = None
        if element is not None and kind == "struct" and _is_complete(element):
            layout = partial(self._inner, element, type_name)
        return Member(name, offset, total, kind, type_name, signed, size, dims, bits, layout)

    def _inner(self, die: DIE, name: str) -> Struct:
        try:
            return self._struct(die, name)
        except DAMAGE as error:
            raise self._damaged(error) from error


def _all(stream: IO[bytes]) -> bytes:
    stream.seek(0)
    return stream.read()


def _type_of(die: DIE) -> DIE | None:
    return die.get_DIE_from_attribute("DW_AT_type") if "DW_AT_type" in die.attributes else None


def _is_complete(die: DIE | None) -> bool:
    """Say whether this is a struct or union with its members, not a mere declaration."""
    return die is not None and die.tag in STRUCT_TAGS and "DW_AT_byte_size" in die.attributes


def _kind(die: DIE | None) -> tuple[Kind, bool]:
    """Return what a member's type is, and whether it is signed."""
    match die.tag if die is not None else "":
        case "DW_TAG_structure_type" | "DW_TAG_union_type":
            return "struct", False
        case "DW_TAG_pointer_type":
            return "pointer", False
        case "DW_TAG_enumeration_type":
            return "enum", False
        case "DW_TAG_base_type":
            assert die is not None
            encoding = die.attributes["DW_AT_encoding"].value
            return ("float" if encoding in _FLOATS else "int"), encoding in _SIGNED
    return "other", False


def _dimensions(array: DIE) -> tuple[int, ...]:
    """Return the number of elements of each dimension; 0 of a flexible one."""
    found: list[int] = []
    for child in islice(array.iter_children(), MAX_DEPTH):
        if child.tag != "DW_TAG_subrange_type":
            continue
        attributes = child.attributes
        number = attributes.get("DW_AT_count")
        upper = attributes.get("DW_AT_upper_bound")
        if number is not None and isinstance(number.value, int):
            found.append(number.value)
        elif upper is not None and isinstance(upper.value, int):
            # A zero-length array is written with the upper bound -1, in any width.
            found.append(upper.value + 1 if upper.value < 1 << 31 else 0)
        else:
            found.append(0)
    return tuple(found)


def _unit_starts(info: bytes, byteorder: ByteOrder) -> list[int]:
    """Return where each compilation unit starts, from the lengths alone."""
    starts: list[int] = []
    at = 0
    while at + 12 <= len(info) and len(starts) < MAX_UNITS:
        length = int.from_bytes(info[at : at + 4], byteorder)
        if length >= 0xFFFF_FFF0:
            raise DwarfError("the debug information is in 64-bit DWARF, which no compiler writes")
        starts.append(at)
        at += 4 + length
    return starts


def _relocated(info: bytes, image: ElfImage) -> bytes:
    """Return `.debug_info` with its references to other sections filled in.

    Only modules (relocatable files) need it, and only R_PPC64_ADDR32 matters:
    the other type, ADDR64, is addresses of code.
    """
    section = image.section(".rela.debug_info")
    symtab = image.section(".symtab")
    if section is None or symtab is None or not section.in_file:
        return info
    order = prefix(image.byteorder)
    rows = _rows(image.contents(section), _RELA, order)
    # Elf64_Rela.r_info is symbol << 32 | type, one 64-bit number.
    kind, symbol = ("type", "symbol") if order == "<" else ("symbol", "type")
    rows = rows[rows[kind] == _R_PPC64_ADDR32]
    symbols = np.frombuffer(image.contents(symtab), order + "u8").reshape(-1, 3)[:, 1]
    good = (rows["offset"] <= len(info) - 4) & (rows[symbol] < len(symbols))
    rows = rows[good]
    values = symbols[rows[symbol]].astype(np.int64) + rows["addend"]
    patched = np.frombuffer(info, np.uint8).copy()
    raw = values.astype(order + "u4").view(np.uint8).reshape(-1, 4)
    for byte in range(4):
        patched[rows["offset"].astype(np.intp) + byte] = raw[:, byte]
    return patched.tobytes()


def _rows(
    data: bytes, fields: list[tuple[str, str]], order: str
) -> "np.ndarray[tuple[int], np.dtype[np.void]]":
    row = np.dtype(fields).newbyteorder(">" if order == ">" else "<")
    return np.frombuffer(data, row, len(data) // row.itemsize)
