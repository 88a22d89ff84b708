"""Basic blocks, of assembly written for the purpose and of the real module."""

import shutil
import subprocess

import pytest

from nestscope.decoders.kernel.elf_image import ElfImage
from nestscope.plugin.differential.coverage.blocks import find_blocks, find_functions
from nestscope.plugin.differential.coverage.coverage import OBJECTIVE, STEERING
from nestscope.plugin.differential.coverage.failures import allocations
from nestscope.plugin.differential.coverage.module_text import (
    Function,
    ModuleText,
    ModuleTextError,
)
from nestscope.plugin.qemu.initramfs import COMPILER
from nestscope.plugin.qemu.kernel_files import KernelFiles

SOURCE = """
        .abiversion 2
        .text
        .globl  walk
        .type   walk, @function
walk:   addis   2, 12, 0
        addi    2, 2, 0
        .localentry walk, 8
        cmpdi   3, 0            # +8
        beq     1f
        mr      4, 3            # +0x10, after a branch that may not be taken
        bl      other           # a call ends no block
        nop
2:      addi    4, 4, -1        # +0x1c, a target
        cmpdi   4, 0
        bne     2b
        b       3f              # +0x28
        nop                     # +0x2c, nobody comes here
        ori     2, 2, 0
1:      li      3, 1            # +0x34
site:   nop                     # a jump label: the kernel may make it a branch
        li      3, 2            # +0x3c
        twui    0, 0            # a warning: it goes on at the label of the table
        li      3, 3
fixup:  li      3, 4            # +0x48
3:      blr                     # +0x4c
        .size   walk, . - walk

        .type   part.isra.0, @function
part.isra.0:
        blr
        .size   part.isra.0, . - part.isra.0
        .type   part.cold, @function
part.cold:
        blr
        .size   part.cold, . - part.cold
        .type   allocates, @function
allocates:
        bl      kmem_cache_alloc_noprof     # into another module: the nop becomes ld r2, 24(r1)
        nop
        bl      __kmalloc_cache_noprof
        mr      4, 3
        bl      kmem_cache_free
        nop
        blr
        .size   allocates, . - allocates
        .type   table, @function
table:  bctr
        .size   table, . - table

        .section __jump_table, "aw"
        .long   site - ., 3b - .
        .quad   0
        .section __ex_table, "a"
        .long   site + 8 - ., fixup - .
"""


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> ModuleText:
    """The assembly as a relocatable file: what a module is."""
    if shutil.which(COMPILER) is None:
        pytest.skip(f"there is no {COMPILER}")
    folder = tmp_path_factory.mktemp("module")
    (folder / "module.s").write_text(SOURCE)
    command = [COMPILER, "-c", "-o", str(folder / "module.ko"), str(folder / "module.s")]
    subprocess.run(command, check=True, timeout=60)
    return ModuleText(ElfImage.open(folder / "module.ko"))


def starts(text: ModuleText, name: str) -> list[int]:
    some = find_blocks(text, text.functions[name])
    return [some.relative(block) for block in some.blocks]


def test_blocks_begin_where_control_can_arrive(text: ModuleText) -> None:
    assert starts(text, "walk") == [0x8, 0x10, 0x1C, 0x28, 0x34, 0x3C, 0x48, 0x4C]


def test_what_only_fills_a_cache_line_is_no_block(text: ModuleText) -> None:
    some = find_blocks(text, text.functions["walk"])
    inside = {i.offset for block in some.blocks for i in block.instructions}
    every = set(range(some.function.local_entry, some.function.end, 4))
    assert {at - some.function.offset for at in every - inside} == {0x2C, 0x30}


def test_disassembly_names_calls_and_places_in_the_function(text: ModuleText) -> None:
    some = find_blocks(text, text.functions["walk"])
    lines = [i.text.split() for block in some.blocks for i in block.instructions]
    assert ["bl", "other"] in lines
    assert ["beq", "+0x34"] in lines


def test_jump_table_is_told(text: ModuleText) -> None:
    assert find_blocks(text, text.functions["table"]).jump_table
    assert not find_blocks(text, text.functions["walk"]).jump_table


def test_parts_that_the_compiler_made_of_a_function_are_found(text: ModuleText) -> None:
    assert [f.name for f in find_functions(text, ["part"])] == ["part.isra.0", "part.cold"]


def test_function_that_is_nowhere_is_said_to_be_inlined(text: ModuleText) -> None:
    with pytest.raises(ModuleTextError, match="inlined"):
        find_functions(text, ["part", "nowhere"])


def test_calls_of_an_allocator_go_on_behind_what_restores_the_toc(text: ModuleText) -> None:
    some = find_blocks(text, text.functions["allocates"])
    start = some.function.offset
    assert [(c.offset - start, c.resume - start) for c in allocations(some)] == [(0, 8), (8, 12)]


def raw_branch(word: int, at: int) -> tuple[bool, int | None]:
    """Whether a word is a branch without LK, and its target: Power ISA 3.0, 2.4."""
    opcode, link, absolute = word >> 26, word & 1, word >> 1 & 1
    if link:
        return False, None
    if opcode in (16, 18):  # bc, b
        bits = 16 if opcode == 16 else 26
        distance = word & (1 << bits) - 4
        distance -= (distance >> bits - 1) << bits
        return True, distance if absolute else at + distance
    return opcode == 19 and (word >> 1 & 0x3FF) in (16, 528, 560), None


@pytest.mark.kernel
def test_every_branch_of_the_real_module_makes_leaders(kernel_files: KernelFiles) -> None:
    """The module's own bytes, decoded by hand, have no branch that was not seen."""
    text = ModuleText.of_module(kernel_files.modules_dir, "kvm_hv")
    functions = find_functions(text, STEERING)
    assert {f.source_name for f in functions} >= set(OBJECTIVE)
    for function in functions:
        check_leaders(text, function)


def check_leaders(text: ModuleText, function: Function) -> None:
    some = find_blocks(text, function)
    leaders = {block.start for block in some.blocks}
    insides = {i.offset for block in some.blocks for i in block.instructions[1:]}
    assert function.local_entry in leaders
    for at in range(function.local_entry, function.end, 4):
        word = int.from_bytes(text.image.data[at : at + 4], text.image.byteorder)
        branches, target = raw_branch(word, at)
        if not branches or at in text.calls:
            continue
        assert at + 4 not in insides, f"{function.name}: block goes on after {at:#x}"
        if target is not None and function.local_entry <= target < function.end:
            assert target in leaders, f"{function.name}: {target:#x} is no leader"
