"""Declared reasons: they are found by the module's build, and a wrong one is told."""

import tomllib
from pathlib import Path

import pytest

from nestscope.plugin.differential.coverage import reasons as reasons_module
from nestscope.plugin.differential.coverage.blocks import (
    Block,
    FunctionBlocks,
    Instruction,
    find_blocks,
    find_functions,
)
from nestscope.plugin.differential.coverage.coverage import MODULE, OBJECTIVE
from nestscope.plugin.differential.coverage.module_text import Function, ModuleText
from nestscope.plugin.differential.coverage.reasons import (
    CONDITIONS,
    Reason,
    Reasons,
    ReasonsError,
    digest_of,
    load_reasons,
    wrong_reasons,
)
from nestscope.plugin.differential.coverage.report import coverage_document, make_report
from nestscope.plugin.qemu.kernel_files import KernelFiles
from tests.schemas import hold

FUNCTION = Function("walk", ".text", 0x1000, 0x40, 0x1008)
WALK = FunctionBlocks(
    FUNCTION,
    (Block(0x1008, 0x1010, ()), Block(0x1010, 0x1020, ()), Block(0x1020, 0x1040, ())),
    False,
)
FAILS = Reason("an allocation fails", never=False)
NEVER = Reason("no input leads there", never=True)
COUNTS = {0x1008: 7, 0x1010: 0, 0x1020: 0}


def write(folder: Path, blocks: str) -> None:
    (folder / "causes.toml").write_text(
        '[memory]\nnever = false\ntext = "an allocation fails"\n[odd]\ntext = "x"\n'
    )
    (folder / "one.toml").write_text(f'release = "6.12"\nbuild_id = "abcd"\n{blocks}')


def test_reasons_are_those_of_the_build(tmp_path: Path) -> None:
    write(tmp_path, '[walk]\n0x10 = "memory"\n')
    found = load_reasons("abcd", folder=tmp_path)
    assert found is not None
    assert found.of("walk", 0x10) == FAILS
    assert found.of("walk", 0x20) is None
    assert load_reasons("ef01", folder=tmp_path) is None


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ('[walk]\n0x10 = "nobody"\n', "unknown cause 'nobody'"),
        ('[walk]\nten = "memory"\n', "'ten' of walk is no distance"),
        ('[walk]\n0x10 = "odd"\n', "odd has no 'never'"),
        ("[walk\n", "cannot be used"),
    ],
)
def test_damaged_list_is_refused(tmp_path: Path, blocks: str, message: str) -> None:
    write(tmp_path, blocks)
    with pytest.raises(ReasonsError, match=message):
        load_reasons("abcd", folder=tmp_path)


def test_reason_for_a_block_that_ran_is_wrong() -> None:
    reasons = Reasons("6.12", {("walk", at): FAILS for at in (0x8, 0x10, 0x14)})
    assert wrong_reasons(reasons, [WALK], COUNTS) == [
        "there is a reason for walk+0x8, but it ran",
        "there is a reason for walk+0x14, where no block begins",
    ]


def test_reason_of_chance_is_not_wrong_when_the_block_ran() -> None:
    reasons = Reasons("6.12", {("walk", 0x8): Reason("an interrupt", never=False, chance=True)})
    assert wrong_reasons(reasons, [WALK], COUNTS) == []


def test_reasons_of_a_condition_apply_only_under_it(tmp_path: Path) -> None:
    write(tmp_path, '[walk]\n0x10 = "memory"\n[sets_rc.walk]\n0x20 = "memory"\n')
    plain, other = (
        load_reasons("abcd", folder=tmp_path),
        load_reasons("abcd", ["sets_rc"], tmp_path),
    )
    assert plain is not None
    assert other is not None
    assert set(plain.blocks) == {("walk", 0x10)}
    assert set(other.blocks) == {("walk", 0x10), ("walk", 0x20)}


def test_report_says_what_is_covered_and_why_the_rest_is_not() -> None:
    reasons = Reasons("6.12", {("walk", 0x10): NEVER})
    report = make_report("6.12", "abcd", ["pseries: t"], [WALK], COUNTS, reasons)
    (function,) = report.functions
    assert (function.covered, round(function.percent, 1)) == (1, 33.3)
    assert (function.possible, function.percent_of_possible) == (2, 50.0)
    assert [(block.at, block.reason) for block in function.missing] == [
        (0x10, NEVER),
        (0x20, None),
    ]
    assert report.unexplained == (("walk", 0x20),)
    document = coverage_document(report)
    hold(document)
    assert document["functions"][0]["block"][1] == {
        "at": "0x10",
        "offset": "0x1010",
        "size": 0x10,
        "count": 0,
        "reason": {"text": "no input leads there", "never": True, "chance": False},
    }


def test_shipped_lists_are_well_formed() -> None:
    folder = Path(reasons_module.__file__).parent / "reasons"
    builds = [tomllib.loads(path.read_text()) for path in folder.glob("[0-9]*.toml")]
    assert builds
    for build in builds:
        reasons = load_reasons(build["build_id"], CONDITIONS)
        assert reasons is not None
        assert reasons.release == build["release"]


def function(*lines: str) -> FunctionBlocks:
    listing = tuple(Instruction(0x1008 + 4 * at, line) for at, line in enumerate(lines))
    return FunctionBlocks(FUNCTION, (Block(0x1008, 0x1010, listing),), False)


def test_another_build_with_the_same_code_has_the_same_reasons(tmp_path: Path) -> None:
    same, other = function("cmpdi r3, 0", "blr"), function("cmpdi r3, 1", "blr")
    digests = f'[digests]\nwalk = "{digest_of(same)}"\n'
    write(tmp_path, f'{digests}[walk]\n0x10 = "memory"\n[run]\n0x8 = "memory"\n')
    found = load_reasons("ef01", folder=tmp_path, functions=[same])
    assert found is not None
    assert set(found.blocks) == {("walk", 0x10)}
    assert load_reasons("ef01", folder=tmp_path, functions=[other]) is None
    assert load_reasons("ef01", folder=tmp_path) is None


@pytest.mark.kernel
def test_digests_of_the_shipped_lists_are_those_of_their_builds(kernel_files: KernelFiles) -> None:
    text = ModuleText.of_module(kernel_files.modules_dir, MODULE)
    folder = Path(reasons_module.__file__).parent / "reasons"
    builds = [tomllib.loads(path.read_text()) for path in folder.glob("[0-9]*.toml")]
    digests = [build["digests"] for build in builds if build["build_id"] == text.build_id]
    if not digests:
        pytest.skip(f"nobody has declared reasons for {kernel_files.release} yet")
    functions = [find_blocks(text, function) for function in find_functions(text, OBJECTIVE)]
    assert digests == [{some.function.name: digest_of(some) for some in functions}]
