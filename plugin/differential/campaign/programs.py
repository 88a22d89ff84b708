"""Which program comes next: a random one for each seed, later also mutants of the corpus."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, islice
from random import Random

from nestscope.plugin.differential.campaign.tasks import RunTask, Target
from nestscope.sim.generate import mutate, random_operations
from nestscope.sim.layout import LAYOUT
from nestscope.sim.operations import Operation
from nestscope.sim.profile import CALM, EVERYTHING, HOST, WILD, Profile, vary

_MOST_CHANGES = 4

PROFILES: Mapping[str, Profile] = {
    "calm": CALM,
    "wild": WILD,
    "host": HOST,
    "everything": EVERYTHING,
}
"""What programs are made of: see `sim.profile`."""
Corpus = Mapping[str, tuple[Operation, ...]]


@dataclass(frozen=True, slots=True)
class Programs:
    """The programs of a campaign: `steps` operations each, from `seeds`.

    `profiles` are names of `PROFILES`, taken in turn. Every seed has its turn first, as
    `nestscope diff --random` runs it. Then come rounds with new seeds (the old one plus a
    multiple of 2^32), and among them programs of another make (`sim.profile.vary`) and
    mutants of the corpus.
    """

    seeds: Sequence[int]
    steps: int
    profiles: Sequence[str] = ("calm",)

    def of(self, target: Target, corpus: Corpus) -> Iterator[RunTask]:
        """Yield the programs for a target without end. `corpus` may grow meanwhile."""
        for number in count():
            turn, at = divmod(number, len(self.seeds))
            seed = self.seeds[at] + (turn << 32)
            name = self.profiles[(at + turn) % len(self.profiles)]
            if turn:
                yield self._later(target, seed, name, corpus)
            else:
                yield self._random(target, seed, name)

    def _random(self, target: Target, seed: int, name: str) -> RunTask:
        return RunTask(target, f"{name}{seed}x{self.steps}", self._made(seed, PROFILES[name]))

    def _made(self, seed: int, profile: Profile) -> tuple[Operation, ...]:
        return tuple(islice(random_operations(seed, LAYOUT, profile), self.steps))

    def _later(self, target: Target, seed: int, name: str, corpus: Corpus) -> RunTask:
        random = Random(seed)
        kind = random.choice(("random", "varied", "mutant"))
        if kind == "varied":
            profile = PROFILES[name]
            for _ in range(random.randint(1, _MOST_CHANGES)):
                profile = vary(profile, random)
            task = f"varied-{name}{seed}x{self.steps}"
            return RunTask(target, task, self._made(seed, profile))
        if kind == "mutant" and corpus:
            parent = corpus[random.choice(sorted(corpus))]
            fresh = self._made(seed, PROFILES[name])
            return RunTask(target, f"mutant{seed}", tuple(mutate(parent, random, fresh)))
        return self._random(target, seed, name)
