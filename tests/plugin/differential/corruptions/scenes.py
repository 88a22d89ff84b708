"""Targets to be corrupted that need no kernel: images of the model after the scene."""

from dataclasses import replace

from nestscope.decoders.kernel.byteorder import ByteOrder
from nestscope.decoders.state import Running, State
from nestscope.plugin.differential.corruptions.scene import SCENE
from nestscope.plugin.differential.corruptions.target import ImageTarget
from nestscope.sim.image.build import Image, build_image
from nestscope.sim.image.profiles import profile_types
from nestscope.sim.layout import LAYOUT
from nestscope.sim.trace import parse
from tests.sim.world import World


def scene_state(page_shift: int) -> State:
    """The model's State after the scene, with a vCPU in a nested guest."""
    world = World(start=False, page_shift=page_shift)
    for operation in parse(SCENE.strip().format(ptcr=LAYOUT.ptcr)):
        world.do(operation)
    (vm,) = world.state.vms
    running = (Running(0, vm.nested[0].address or 0),)
    return replace(world.state, vms=(replace(vm, running=running),))


def scene_image(
    page_shift: int = 16, family: str = "6.12-like", byteorder: ByteOrder = "little"
) -> Image:
    """The same, laid out as memory of a kernel of this family."""
    types = profile_types(family)
    return build_image(scene_state(page_shift), types, byteorder=byteorder, seed=page_shift)


def image_target(
    page_shift: int = 16, family: str = "6.12-like", byteorder: ByteOrder = "little"
) -> ImageTarget:
    image = scene_image(page_shift, family, byteorder)
    return ImageTarget(image.memory, image.kernel)
