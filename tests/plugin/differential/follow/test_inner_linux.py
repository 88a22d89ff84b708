"""A whole Linux as the guest, with nested guests of its own: followed from its first page on."""

import pytest

from nestscope.plugin.differential.follow.attach import attach
from nestscope.plugin.differential.follow.damage import Damage, Injector, WordInjector
from nestscope.plugin.differential.follow.follower import Follower, Limits, Report
from nestscope.plugin.qemu.errors import LabError
from nestscope.plugin.qemu.inner_linux import ENDED, InnerLinux, build_initramfs
from nestscope.plugin.qemu.kernel_files import KernelFiles

# On a busy machine TCG needs many minutes for what takes one of its own.
pytestmark = [pytest.mark.kernel, pytest.mark.nightly, pytest.mark.timeout(3600)]


def follow_inner(
    files: KernelFiles, cpus: int = 1, injector: Injector | None = None
) -> tuple[Report, str]:
    """Follow until the inner machine has ended; return what was found, and the consoles' text."""
    try:
        build_initramfs(files, files)
    except LabError as problem:
        pytest.skip(str(problem))

    def disturb(follower: Follower) -> None:
        if injector is not None:
            injector(follower)

    with InnerLinux.boot(files, files, cpus=cpus) as lab:
        with attach(f"gdb:{lab.gdb_socket}", ram=lab.files.ram, disturb=disturb) as follower:
            lab.go()
            first = injector is not None
            follower.run(Limits(seconds=3000, first=first, until=lambda: ENDED in lab.text))
        return follower.report, lab.text


@pytest.mark.parametrize("cpus", [1, 2])
def test_an_unmodified_linux_with_nested_guests_is_followed_without_a_difference(
    kernel_files: KernelFiles, cpus: int
) -> None:
    report, text = follow_inner(kernel_files, cpus)
    assert "nestscope-inner: done" in text
    assert f"{ENDED} 0" in text
    assert report.found == []
    calls = report.tally.calls
    # Three guests of the inner kernel with 8 MiB each, and half of it twice more.
    assert calls["kvmppc_create_pte"] > 3 * 2 * (8 << 20 >> 16)
    assert calls["kvmhv_do_nested_tlbie"] > 0
    assert calls["kvmppc_free_pgtable_radix"] >= 3
    assert report.wholes > 1


def test_an_entry_that_is_dropped_meanwhile_is_noticed(kernel_files: KernelFiles) -> None:
    injector = WordInjector(Damage.DROP, after=60)
    # While the first guest is filled: later there are entries in lists only.
    report, _ = follow_inner(kernel_files, injector=injector)
    assert injector.gfn is not None
    assert report.found[0].difference.path.endswith(f"rmap[gfn={injector.gfn:#x}]")
