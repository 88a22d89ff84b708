"""Which program comes next: a random one for each seed, later also mutants of the corpus."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, islice
from random import Random

from nestscope.plugin.differential.campaign.tasks import RunTask, Target
from nestscope.sim.generate import mutate, random_operations
from nestscope.sim.layout import LAYOUT
from nestscope.sim.operations import Operation
from nestscope.sim.profile import DEFAULT, vary

_MOST_CHANGES = 4
Corpus = Mapping[str, tuple[Operation, ...]]


@dataclass(frozen=True, slots=True)
class Programs:
    """The programs of a campaign: `steps` operations each, from `seeds`.

    Every seed has its turn first, as `nestscope diff --random` runs it. Then come rounds
    with new seeds (the old one plus a multiple of 2^32), and among them programs of
    another make (`sim.profile.vary`) and mutants of the corpus.
    """

    seeds: Sequence[int]
    steps: int

    def of(self, target: Target, corpus: Corpus) -> Iterator[RunTask]:
        """Yield the programs for a target without end. `corpus` may grow meanwhile."""
        for number in count():
            turn, at = divmod(number, len(self.seeds))
            seed = self.seeds[at] + (turn << 32)
            yield self._later(target, seed, corpus) if turn else self._random(target, seed)

    def _random(self, target: Target, seed: int) -> RunTask:
        operations = tuple(islice(random_operations(seed, LAYOUT), self.steps))
        return RunTask(target, f"seed{seed}x{self.steps}", operations)

    def _later(self, target: Target, seed: int, corpus: Corpus) -> RunTask:
        random = Random(seed)
        kind = random.choice(("random", "varied", "mutant"))
        if kind == "varied":
            profile = DEFAULT
            for _ in range(random.randint(1, _MOST_CHANGES)):
                profile = vary(profile, random)
            operations = tuple(islice(random_operations(seed, LAYOUT, profile), self.steps))
            return RunTask(target, f"varied{seed}x{self.steps}", operations)
        if kind == "mutant" and corpus:
            parent = corpus[random.choice(sorted(corpus))]
            fresh = islice(random_operations(seed, LAYOUT), self.steps)
            return RunTask(target, f"mutant{seed}", tuple(mutate(parent, random, fresh)))
        return self._random(target, seed)
