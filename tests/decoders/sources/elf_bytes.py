"""Hand-made ELF core files, in either byte order."""

import struct

EM_PPC64 = 21
ET_EXEC, ET_CORE = 2, 4
PT_LOAD, PT_NOTE = 1, 4


def elf_core(
    segments: list[tuple[int, bytes]],
    *,
    order: str = "<",
    machine: int = EM_PPC64,
    kind: int = ET_CORE,
    memsz: int | None = None,
    extended_count: bool = False,
) -> bytes:
    """Return a core with one PT_LOAD for each `(physical address, bytes)`."""
    count = len(segments) + 1
    section_at = 64
    headers_at = 64 + 64
    data_at = headers_at + 56 * count
    header = struct.pack(
        order + "16sHHIQQQIHHHHHH",
        b"\x7fELF" + bytes([2, 1 if order == "<" else 2, 1]) + bytes(9),
        kind,
        machine,
        1,
        0,
        headers_at,
        section_at,
        0,
        64,
        56,
        0xFFFF if extended_count else count,
        64,
        1,
        0,
    )
    section = struct.pack(order + "IIQQQQIIQQ", 0, 0, 0, 0, 0, 0, 0, count, 0, 0)
    program = struct.pack(order + "IIQQQQQQ", PT_NOTE, 0, data_at, 0, 0, 0, 0, 0)
    data = b""
    for address, contents in segments:
        size = len(contents)
        program += struct.pack(
            order + "IIQQQQQQ",
            PT_LOAD,
            0,
            data_at + len(data),
            0xC000_0000_0000_0000 + address,
            address,
            size,
            size if memsz is None else memsz,
            0,
        )
        data += contents
    return header + section + program + data
