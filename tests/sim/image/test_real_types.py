"""Images in the layout of real kernels: from their stored profiles, and from BTF."""

import pytest

from nestscope.decoders.kernel.byteorder import ByteOrder
from nestscope.decoders.kernel.files import knowledge_of_files
from nestscope.decoders.kernel.profile import Profile
from nestscope.decoders.kernel.shipped import shipped_profiles
from nestscope.decoders.kernel.types import Types
from nestscope.decoders.read_state import read_state
from nestscope.plugin.qemu.kernel_files import KernelFiles
from nestscope.sim.image.build import build_image
from nestscope.sim.image.profiles import completed
from nestscope.sim.image.synthetic import synthetic_state
from tests.sim.image.states import SOURCE, plain, without_addresses


def _check(types: Types, byteorder: ByteOrder, page_shift: int) -> None:
    state = synthetic_state(gfns=5000, entries=900, nested=70, page_shift=page_shift)
    image = build_image(state, types, byteorder=byteorder, seed=1)
    found = read_state(image.memory, image.kernel, SOURCE)
    assert without_addresses(found) == without_addresses(state)
    assert plain(found) == plain(image.state)


@pytest.mark.parametrize("byteorder", ["little", "big"])
@pytest.mark.parametrize("page_shift", [12, 16])
@pytest.mark.parametrize("profile", shipped_profiles(), ids=lambda profile: profile.release)
def test_with_the_profiles_of_the_package(
    profile: Profile, byteorder: ByteOrder, page_shift: int
) -> None:
    _check(completed(profile), byteorder, page_shift)


@pytest.mark.kernel
def test_with_the_types_of_a_kernel_at_hand(kernel_files: KernelFiles) -> None:
    known = knowledge_of_files(kernel_files.vmlinux, kernel_files.modules_dir)
    _check(Types(known.layouts), "little", 16)
