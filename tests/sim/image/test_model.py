"""The model laid out as memory reads back as the model's own State."""

from itertools import islice

import pytest

from nestscope.decoders.kernel.byteorder import ByteOrder
from nestscope.decoders.read_state import read_state
from nestscope.sim.generate import random_operations
from nestscope.sim.image.build import build_image
from nestscope.sim.image.profiles import PROFILES, profile_types
from nestscope.sim.layout import LAYOUT
from tests.sim.image.states import SOURCE, without_addresses
from tests.sim.world import World


@pytest.mark.parametrize("byteorder", ["little", "big"])
@pytest.mark.parametrize("profile", sorted(PROFILES))
@pytest.mark.parametrize("page_shift", [12, 16])
def test_the_model_after_random_operations(
    page_shift: int, profile: str, byteorder: ByteOrder
) -> None:
    world = World(start=False, page_shift=page_shift)
    most = 0  # the VM may end and begin again
    for number, operation in enumerate(islice(random_operations(5, LAYOUT), 400)):
        world.do(operation)
        if number % 80 == 79:
            image = build_image(world.state, profile_types(profile), byteorder=byteorder, seed=1)
            found = read_state(image.memory, image.kernel, SOURCE)
            assert without_addresses(found) == without_addresses(world.state)
            most = max(most, len(world.chains()))
    assert most > 5
