"""What a corruption is: what it overwrites, and which finding that must make."""

from collections.abc import Callable
from dataclasses import dataclass

from nestscope.decoders.audit.audit import Finding, audit
from nestscope.decoders.read_state import read_state
from nestscope.decoders.state import State
from nestscope.plugin.differential.corruptions.scene import Scene
from nestscope.plugin.differential.corruptions.target import Target

Place = dict[str, int | None]
"""Members of the finding that must be there, as `check --json` names them."""

Apply = Callable[[Scene], Place]


@dataclass(frozen=True)
class Corruption:
    """`apply` overwrites what the docstring of it says; then `rule` must fire at its place.

    `page_shifts`: base pages with which it is possible. `alone`: nothing but that finding
    may be there afterwards.
    """

    name: str
    rule: str
    apply: Apply
    page_shifts: tuple[int, ...] = (12, 16)
    alone: bool = False

    @property
    def what(self) -> str:
        """What it overwrites, in one sentence."""
        return " ".join((self.apply.__doc__ or "").split())


def corruption(
    rule: str, *, page_shifts: tuple[int, ...] = (12, 16), alone: bool = False
) -> Callable[[Apply], Corruption]:
    """Make the decorated function a `Corruption`, named after it."""

    def declared(apply: Apply) -> Corruption:
        name = apply.__name__.replace("_", "-")
        return Corruption(name, rule, apply, page_shifts, alone)

    return declared


@dataclass(frozen=True)
class Proof:
    """What the audit said of a corruption: `place` was wanted, `new` findings came."""

    corruption: Corruption
    place: Place
    new: tuple[Finding, ...]

    @property
    def noticed(self) -> bool:
        """Whether the rule fired at the right place, and alone if it must."""
        right = any(_is_at(finding, self.corruption.rule, self.place) for finding in self.new)
        return right and not (self.corruption.alone and len(self.new) != 1)


def prove(corruption: Corruption, target: Target) -> Proof:
    """Corrupt a target, audit it, and put its bytes back.

    Raises:
        SceneError: if the target does not have what the corruption needs.
        NestscopeError: if it cannot be written.
    """
    scene = Scene(target)
    place = corruption.apply(scene)
    before = {address: target.memory.read(address, len(data)) for address, data in
              scene.patches.items()}  # fmt: skip
    known = set(_audited(scene.state))
    try:
        for address, data in scene.patches.items():
            target.write(address, data)
        after = _audited(read_state(target.memory, target.kernel, target.source))
    finally:
        for address, data in before.items():
            target.write(address, data)
    return Proof(corruption, place, tuple(each for each in after if each not in known))


def _audited(state: State) -> list[Finding]:
    # The words say what is wrong, whoever sets R and C in this machine.
    return audit(state, rc_by_hardware=False)


def _is_at(finding: Finding, rule: str, place: Place) -> bool:
    return finding.rule == rule and all(
        getattr(finding, name) == value for name, value in place.items()
    )
