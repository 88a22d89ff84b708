"""Signs of failure on a kernel's console."""

from pathlib import Path

import pytest

from nestscope.plugin.qemu.console import Console, find_failure, find_warnings

OOPS = """\
[    8.1] BUG: Kernel NULL pointer dereference on read at 0x00000010
[    8.1] Faulting instruction address: 0xc008000000b41d2c
[    8.1] Oops: Kernel access of bad area, sig: 11 [#1]
[    8.1] LE PAGE_SIZE=64K MMU=Radix  SMP NR_CPUS=2048 NUMA pSeries
"""
BUG = "[    9.0] kernel BUG at arch/powerpc/kvm/book3s_64_mmu_radix.c:612!\n"
PANIC = "[    3.4] Kernel panic - not syncing: sysrq triggered crash\n"
USER_PAGE = "[    2.0] Kernel attempted to read user page (7fff) - exploit attempt? (uid: 0)\n"
HANDLE = "[    2.0] Unable to handle kernel paging request for data at address 0x00000000\n"
STALL = "[   64.2] rcu: INFO: rcu_sched self-detected stall on CPU\n"
STALLS = "[   64.2] rcu: INFO: rcu_sched detected stalls on CPUs/tasks:\n"
LOCKUP = "[   30.0] watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [init:124]\n"
WARNING = """\
[    5.0] ------------[ cut here ]------------
[    5.0] WARNING: CPU: 0 PID: 124 at arch/powerpc/kvm/book3s_64_mmu_radix.c:500 f+0x1/0x2 [kvm_hv]
"""
NEW_WARNING = "[    5.0] WARNING: mm/slub.c:12 at f+0x1/0x2, CPU#0: init/124\n"
QUIET = """\
[    0.1] WARNING: nvram corruption detected: 0-length partition
[    0.9] SED: plpks not available
[    1.0] debug: no oops here, panic=0
"""


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (OOPS, "oops"),
        (BUG, "oops"),
        (USER_PAGE, "oops"),
        (HANDLE, "oops"),
        (PANIC, "panic"),
        (OOPS + PANIC, "oops"),
        (STALL, "hung"),
        (STALLS, "hung"),
        (LOCKUP, "hung"),
        ("nestscope-agent: the VMM ended with status 0xb\n", "died"),
    ],
)
def test_kind_of_failure(text: str, kind: str) -> None:
    sign = find_failure(QUIET + text)
    assert sign is not None
    assert sign.kind == kind


def test_the_line_that_says_it_is_kept() -> None:
    sign = find_failure(QUIET + PANIC + "more\n")
    assert sign is not None
    assert sign.line == PANIC.strip()


def test_ordinary_messages_and_warnings_are_no_failure() -> None:
    assert find_failure(QUIET + WARNING + NEW_WARNING) is None


def test_warning_splats_are_found_in_both_forms_and_driver_chatter_is_not() -> None:
    found = find_warnings(QUIET + WARNING + NEW_WARNING)
    assert [line.split()[1] for line in found] == ["CPU:", "mm/slub.c:12"]


def test_a_headline_that_arrives_in_two_pieces_counts_once(tmp_path: Path) -> None:
    path = tmp_path / "console.log"
    console = Console(path)
    assert console.warnings() == []
    for piece in (WARNING[:100], WARNING[100:], "[ 6.0] x\n"):
        with path.open("a") as log:
            log.write(piece)
        console.poll()
    assert len(console.warnings()) == 1


def test_tail_keeps_the_last_lines(tmp_path: Path) -> None:
    path = tmp_path / "console.log"
    path.write_bytes(b"one\r\ntwo\r\nthr\xffee\r\n")
    assert Console(path).tail(2) == "two\nthr\N{REPLACEMENT CHARACTER}ee"


def test_failure_is_seen_when_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "console.log"
    path.write_text(QUIET)
    console = Console(path)
    assert console.failure() is None
    with path.open("a") as log:
        log.write(OOPS)
    sign = console.failure()
    assert sign is not None
    assert sign.kind == "oops"
