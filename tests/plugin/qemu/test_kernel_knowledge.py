"""Each kernel of the lab, known from files, from a profile, and from its memory alone."""

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import pytest

from nestscope.decoders.kernel.kernel import KernelError, open_kernel
from nestscope.decoders.kernel.knowledge import Knowledge
from nestscope.decoders.kernel.profile import Profile, ProfileError
from nestscope.decoders.kernel.recorded import make_profile
from nestscope.decoders.kernel.shipped import shipped_profiles, stored_profile
from nestscope.decoders.read_state import read_state
from nestscope.decoders.sources.open import open_source
from nestscope.decoders.state import Leaves, State
from nestscope.decoders.state_json import to_json
from nestscope.plugin.differential.session import open_comparison
from nestscope.plugin.mi.memory import GdbMemory
from nestscope.plugin.mi.session import GdbSession
from nestscope.plugin.qemu.errors import LabError
from nestscope.plugin.qemu.initramfs import build_agent
from nestscope.plugin.qemu.kernel_files import KernelFiles
from nestscope.plugin.qemu.kernels import DEFAULT_KERNEL, FLAVOURS, fetch_kernel
from nestscope.plugin.qemu.lab import QEMU, Lab
from nestscope.plugin.qemu.listing import HOST_TREE, parse_listing
from nestscope.sim.generate import random_operations
from nestscope.sim.layout import LAYOUT

pytestmark = pytest.mark.kernel
STEPS = 60


@dataclass
class Run:
    """A machine after some steps: its memory, the live State, and the kernel's own listing.

    The memory is a dump for one kernel, QEMU's RAM file for the others: dumps are slow.
    """

    lab: Lab
    files: KernelFiles
    source: str
    live: State
    listed: dict[int | None, Leaves]


@pytest.fixture(scope="module", params=FLAVOURS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    if shutil.which(QEMU) is None:
        pytest.skip(f"there is no {QEMU}: install qemu-system-ppc")
    try:
        build_agent()
        files = fetch_kernel(request.param)
    except LabError as problem:
        pytest.skip(str(problem))
    dump = tmp_path_factory.mktemp("dump") / "dump.elf"
    with Lab.boot(files) as lab, open_comparison(lab) as live:
        for operation in islice(random_operations(5, LAYOUT), STEPS):
            assert live.comparison.step(operation).differences == ()
        source = f"ram:{lab.ram_path}"
        if request.param == DEFAULT_KERNEL:
            lab.qmp.dump_guest_memory(dump)
            source = str(dump)
        (reply,) = lab.agent.must(["listing"])
        listed = parse_listing(reply.data.decode())
        yield Run(lab, files, source, live.machine.state(), listed)


def without_source(state: State) -> str:
    text = to_json(state)
    return text[text.index('"kernel"') :]


def state_of(run: Run, profile: Profile | None = None, *, shipped: bool = True) -> State:
    """Read the State of the memory without any file of the kernel."""
    memory, source = open_source(run.source)
    with memory:
        return read_state(memory, open_kernel(memory, profile=profile, shipped=shipped), source)


def test_the_leaves_equal_the_kernels_own_listing(run: Run) -> None:
    vm = run.live.vms[0]
    read = {HOST_TREE: list(vm.host_leaves)}
    # The kernel's listing leaves nested guest 0 out.
    read |= {guest.l1_lpid: list(guest.leaves) for guest in vm.nested if guest.l1_lpid}
    assert read == {tree: list(leaves) for tree, leaves in run.listed.items()}
    assert len(read) > 5


def test_no_file_is_needed(run: Run) -> None:
    assert without_source(state_of(run)) == without_source(run.live)


def test_no_profile_is_needed_if_the_kernel_describes_itself(run: Run) -> None:
    if run.files.release.startswith("6.1."):
        with pytest.raises(KernelError, match=r"6\.1\..*CONFIG_KALLSYMS_ALL.*profile"):
            state_of(run, shipped=False)
    else:
        assert without_source(state_of(run, shipped=False)) == without_source(run.live)


def test_a_gdbstub_needs_no_file(run: Run) -> None:
    with GdbSession.connect(run.lab.gdb_socket) as session, session.stopped():
        memory = GdbMemory(session, spool=run.lab.run_folder)
        read = read_state(memory, open_kernel(memory), run.live.source)
        assert without_source(read) == without_source(run.live)
        if not run.files.release.startswith("6.1."):
            read = read_state(memory, open_kernel(memory, shipped=False), run.live.source)
            assert without_source(read) == without_source(run.live)


def own_knowledge(run: Run) -> Knowledge:
    memory, _ = open_source(run.source)
    with memory:
        known = open_kernel(memory, run.files.vmlinux, run.files.modules_dir).known
    assert known is not None
    return known


def own_profile(run: Run) -> Profile:
    """The stored profile; a kernel with types may be newer than those, and makes its own."""
    known = own_knowledge(run)
    assert known.build_id is not None
    return stored_profile(known.build_id) or make_profile(known)


def other_profile(run: Run) -> Profile:
    return next(found for found in shipped_profiles() if found.release != run.files.release)


def test_the_profile_of_another_kernel_is_refused_and_both_are_named(run: Run) -> None:
    own, other = own_profile(run), other_profile(run)
    with pytest.raises(KernelError, match=f"{re.escape(own.release)}.*{re.escape(other.release)}"):
        state_of(run, other)
    memory, _ = open_source(run.source)
    with memory, pytest.raises(ProfileError, match=f"{other.build_id.hex()}.*{own.build_id.hex()}"):
        open_kernel(memory, run.files.vmlinux, run.files.modules_dir, profile=other)


def test_modules_of_another_kernel_are_refused(run: Run) -> None:
    other = fetch_kernel(next(name for name in FLAVOURS if name != run.files.name))
    memory, _ = open_source(run.source)
    with memory, pytest.raises(KernelError, match=r"module kvm of build .* but the file is build"):
        open_kernel(memory, run.files.vmlinux, other.modules_dir, profile=own_profile(run))


def test_a_profile_made_from_the_running_kernel_serves_as_well(run: Run) -> None:
    known = own_knowledge(run)
    profile = Profile.from_json(make_profile(known).to_json(), "made")
    stored = stored_profile(profile.build_id)
    if stored is not None:  # Debian may have a newer kernel than those that ship
        assert profile.to_json() == stored.to_json()
    assert without_source(state_of(run, profile, shipped=False)) == without_source(run.live)
