"""Which program comes next: a random one for each seed, later also mutants of the corpus."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, islice
from random import Random

from nestscope.plugin.differential.campaign.tasks import RunTask, Target
from nestscope.sim.generate import mutate, random_operations
from nestscope.sim.layout import LAYOUT
from nestscope.sim.operations import Operation

Corpus = Mapping[str, tuple[Operation, ...]]
_MUTANTS = 0.5


@dataclass(frozen=True, slots=True)
class Programs:
    """The programs of a campaign: `steps` operations each, from `seeds`.

    Every seed has its turn first. Then come rounds with new seeds (the old one plus a
    multiple of 2^32, so that `nestscope diff --random` can repeat each), and mutants.
    """

    seeds: Sequence[int]
    steps: int

    def of(self, target: Target, corpus: Corpus) -> Iterator[RunTask]:
        """Yield the programs for a target without end. `corpus` may grow meanwhile."""
        for number in count():
            turn, at = divmod(number, len(self.seeds))
            seed = self.seeds[at] + (turn << 32)
            yield self._mutant(target, seed, corpus) if turn else self._random(target, seed)

    def _random(self, target: Target, seed: int) -> RunTask:
        operations = tuple(islice(random_operations(seed, LAYOUT), self.steps))
        return RunTask(target, f"seed{seed}x{self.steps}", operations)

    def _mutant(self, target: Target, seed: int, corpus: Corpus) -> RunTask:
        random = Random(seed)
        if not corpus or random.random() >= _MUTANTS:
            return self._random(target, seed)
        parent = corpus[random.choice(sorted(corpus))]
        fresh = islice(random_operations(seed, LAYOUT), self.steps)
        return RunTask(target, f"mutant{seed}", tuple(mutate(parent, random, fresh)))
