"""Where a place is in the running kernel: addresses of entries and calls, and of endless loops."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from nestscope.decoders.errors import NestscopeError
from nestscope.decoders.kernel.elf_image import ElfImage
from nestscope.decoders.kernel.kernel import Kernel
from nestscope.plugin.differential.coverage.blocks import FunctionBlocks, find_blocks
from nestscope.plugin.differential.coverage.coverage import load_address
from nestscope.plugin.differential.coverage.module_text import Function, ModuleText
from nestscope.sim.places import Place, known_places

MODULES = ("kvm_hv", "kvm")
"""Modules in which places are looked for."""
BRANCH_TO_ITSELF = bytes.fromhex("00000048")
"""The instruction `b .`, little-endian (Power ISA, I-form with LI 0)."""


class PlaceError(NestscopeError):
    """A place that is not in this kernel."""


@dataclass(frozen=True, slots=True)
class Sites:
    """The places and loops of one running kernel; kernel virtual addresses."""

    kernel: Kernel
    modules_dir: Path
    vmlinux: Path

    def addresses(self, place: Place) -> list[int]:
        """Return the instructions at which a place is reached, whichever of them comes first.

        Raises:
            PlaceError: if this kernel has no such function, or it makes no such call.
        """
        found = []
        for module in MODULES:
            text = module_text(self.modules_dir, module)
            for function in text.functions.values():
                if function.source_name == place.function:
                    base = load_address(self.kernel, function, module) - function.offset
                    found += [base + offset for offset in _offsets(text, function, place)]
        if not found:
            known = ", ".join(known_places())
            raise PlaceError(
                f"this kernel has no place {place._replace(times=1)} in {' or '.join(MODULES)}: "
                f"the compiler may have inlined it. Places of the model: {known}"
            )
        return found

    def loops(self, count: int) -> list[int]:
        """Return addresses of different `b .` in the kernel, where a task can be held.

        Endless loops of the kernel's C functions (`for (;;);` behind a halt): they lie
        behind the interrupt vectors, where the return address of an interrupt may mean more.

        Raises:
            PlaceError: if there are not so many.
        """
        places = [
            address
            for address in branches_to_themselves(self.vmlinux)[-count:]
            if self.kernel.memory.read(address, 4) == BRANCH_TO_ITSELF
        ]
        if len(places) < count:
            raise PlaceError(
                f"{self.vmlinux} has no {count} endless loops that the running kernel has, too: "
                "give the running kernel's --vmlinux"
            )
        return places


@cache
def module_text(modules_dir: Path, name: str) -> ModuleText:
    """Return the code of a module, read once."""
    return ModuleText.of_module(modules_dir, name)


@cache
def branches_to_themselves(vmlinux: Path) -> list[int]:
    """Return the addresses of every `b .` in the kernel's own code, ascending."""
    image = ElfImage.open(vmlinux)
    text = image.section(".text")
    if text is None:
        raise PlaceError(f"{vmlinux} has no .text: give an ELF kernel image")
    words = np.frombuffer(image.contents(text), np.dtype("<u4"))
    wanted = int.from_bytes(BRANCH_TO_ITSELF, "little")
    return [text.address + int(at) * 4 for at in np.flatnonzero(words == wanted)]


def _offsets(text: ModuleText, function: Function, place: Place) -> list[int]:
    if place.callee is None:
        return [function.local_entry]
    return calls_of(find_blocks(text, function), place.callee)


def calls_of(some: FunctionBlocks, callee: str) -> list[int]:
    """Return the offsets of the calls of a function, by its name in the source."""
    return [
        instruction.offset
        for block in some.blocks
        for instruction in block.instructions
        if instruction.text.startswith("bl ")
        and instruction.text.split()[-1].split(".", 1)[0] == callee
    ]
