"""A capture: exactly the memory that reading the State and walking the trees touches.

The host kernel's memory is kept in pages of 4 KiB. Of a guest's own memory only
the bytes of its translation tables are kept, nothing that lies beside them.
"""

import contextlib
import json
import lzma
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

from nestscope.decoders.captured import (
    NOTE_NAME,
    NOTE_PROFILE,
    NOTE_RUN,
    SCHEMA,
    is_capture,
)
from nestscope.decoders.errors import UnreadableMemoryError
from nestscope.decoders.kernel.kernel import Kernel
from nestscope.decoders.kernel.knowledge import (
    NEEDED_MODULE_SYMBOLS,
    NEEDED_SYMBOLS,
    USEFUL_SYMBOLS,
)
from nestscope.decoders.kernel.memory import KernelMemory
from nestscope.decoders.kernel.profile import Profile
from nestscope.decoders.kernel.recorded import RecordingTypes
from nestscope.decoders.kernel.symbols import Symbol
from nestscope.decoders.kernel.types import Struct, Types, UnknownTypeError
from nestscope.decoders.read_state import StateReader
from nestscope.decoders.sources.elf_notes import Note
from nestscope.decoders.sources.protocol import Memory
from nestscope.decoders.sources.source_memory import merged
from nestscope.decoders.state import Source, State, Vm
from nestscope.decoders.state_json import problem_document
from nestscope.decoders.trees import tree_leaves
from nestscope.decoders.two_stage import guest_memory_of
from nestscope.decoders.words import pate, ptcr
from nestscope.plugin.dumps.elf_writer import Order, write_core
from nestscope.plugin.dumps.recording import Range, RecordingMemory
from nestscope.plugin.dumps.vmcoreinfo import find_vmcoreinfo
from nestscope.plugin.output import new_file

HOST_GRAIN = 4096
_PATE_BYTES = 16
_CHUNK = 4 << 20
_KERNEL_SYMBOLS = (*NEEDED_SYMBOLS, *USEFUL_SYMBOLS)
_MODULE_SYMBOLS = tuple(name for names in NEEDED_MODULE_SYMBOLS.values() for name in names)


@dataclass(frozen=True)
class Capture:
    """What a capture file holds: the State it shows, its notes, its physical ranges."""

    state: State
    notes: tuple[Note, ...]
    ranges: tuple[Range, ...]

    @property
    def size(self) -> int:
        """Bytes of memory in it."""
        return sum(end - start for start, end in self.ranges)


class _LayoutsOf:
    """The layouts that a kernel's types give. Satisfies `LayoutSource`."""

    def __init__(self, types: Types) -> None:
        self._types = types

    def find(self, name: str) -> Struct | None:
        """Return the struct called `name`, or None."""
        try:
            return self._types.struct(name)
        except UnknownTypeError:
            return None


def capture(physical: Memory, kernel: Kernel, source: Source, notes: tuple[Note, ...]) -> Capture:
    """Read everything that `state`, `walk` and `check` read, and remember where it was.

    `notes` are those of the source; a capture of a capture keeps them.

    Raises:
        UnknownTypeError: if the kernel's types do not describe KVM's structures.
    """
    host = RecordingMemory(physical)
    types = RecordingTypes([_LayoutsOf(kernel.types)])
    seen = replace(
        kernel, types=types, memory=KernelMemory(host, kernel.memory.pgd, kernel.byteorder)
    )
    state = StateReader(seen, source).read()
    vmcoreinfo = find_vmcoreinfo(kernel, physical)
    guest = RecordingMemory(physical)
    for vm in state.vms:
        # A VM that cannot be followed to its memory cannot be walked either.
        with contextlib.suppress(UnreadableMemoryError):
            _read_guest_tables(vm, guest_memory_of(guest, seen, vm))
    kept = tuple(note for note in notes if note.name != "CORE")
    if not is_capture(kept):
        kept = (
            *_own_notes(seen, types, {**guest.failures, **host.failures}),
            *([vmcoreinfo] if vmcoreinfo else []),
        )
    ranges = merged([*host.ranges(HOST_GRAIN), *guest.ranges()])
    return Capture(state, kept, tuple(merged(_readable(physical, ranges))))


def _read_guest_tables(vm: Vm, memory: Memory) -> None:
    """Read what a walk of a nested guest reads in the guest's memory: PATE and tree."""
    for nested in vm.nested:
        roots = {nested.l1_gr_to_hr or 0}
        if vm.l1_ptcr:
            entry = ptcr.partition_table(vm.l1_ptcr) + nested.l1_lpid * _PATE_BYTES
            # Where it cannot be read, a walk has no root from it either.
            with contextlib.suppress(UnreadableMemoryError):
                roots.add(int.from_bytes(memory.read(entry, _PATE_BYTES)[:8], "big"))
        for dw0 in roots - {0}:
            bits = pate.root_bits(dw0)
            if bits:
                tree_leaves(memory, pate.root_table(dw0), bits, pate.address_bits(dw0))


def _readable(physical: Memory, ranges: list[Range]) -> Iterator[Range]:
    """Yield the ranges; where rounding reached beyond the source's memory, less of them."""
    for start, end in ranges:
        for here in range(start, end, _CHUNK):
            yield from _readable_part(physical, here, min(here + _CHUNK, end))


def _readable_part(physical: Memory, start: int, end: int) -> Iterator[Range]:
    try:
        physical.read(start, end - start)
    except UnreadableMemoryError:
        middle = (start + end) // 2
        if middle > start:
            yield from _readable_part(physical, start, middle)
            yield from _readable_part(physical, middle, end)
    else:
        yield start, end


def _own_notes(
    kernel: Kernel, types: RecordingTypes, failures: Mapping[tuple[int, int], str]
) -> tuple[Note, Note]:
    """Return the notes from which `open_capture` makes this kernel again."""
    known = kernel.known
    symbols = [kernel.symbols.get(name) for name in _KERNEL_SYMBOLS]
    profile = Profile(
        release=kernel.release,
        build_id=(known.build_id if known else None) or b"",
        byteorder=kernel.byteorder,
        banner=known.banner if known else b"",
        build_id_note=(known.build_id_note if known else None) or 0,
        symbols={
            symbol.name: Symbol(symbol.name, symbol.address, symbol.size, symbol.address)
            for symbol in symbols
            if symbol is not None
        },
        module_symbols={},
        structs=types.asked(),
        absent=frozenset(types.absent),
    )
    run = {
        "schema": SCHEMA,
        "page_shift": kernel.page_shift,
        "pgd": hex(kernel.memory.pgd),
        "module_symbols": {
            module: {
                name: hex(symbol.address)
                for name in _MODULE_SYMBOLS
                if (symbol := table.get(name)) is not None
            }
            for module, table in kernel.module_symbols.items()
        },
        "problems": [problem_document(problem) for problem in kernel.problems],
        "unreadable": [[hex(at), length, why] for (at, length), why in failures.items()],
    }
    return (
        Note(NOTE_NAME, NOTE_RUN, json.dumps(run).encode()),
        Note(NOTE_NAME, NOTE_PROFILE, profile.to_json().encode()),
    )


def write_capture(captured: Capture, physical: Memory, kernel: Kernel, path: Path) -> int:
    """Write a capture to `path`, packed if it ends in `.xz`; return the file's size in bytes.

    Raises:
        NestscopeError: if the file cannot be written.
    """
    order: Order = "<" if kernel.byteorder == "little" else ">"
    with new_file(path) as file:
        if path.suffix == ".xz":
            buffer = BytesIO()
            write_core(buffer, order, captured.notes, captured.ranges, physical.read)
            file.write(lzma.compress(buffer.getvalue(), preset=9 | lzma.PRESET_EXTREME))
        else:
            write_core(file, order, captured.notes, captured.ranges, physical.read)
    return path.stat().st_size
