"""One mutant: a place in the model's source and what stands there instead."""

import ast
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Mutant:
    """`old` stands exactly once in `file` (below `sim/`); `new` takes its place.

    `wrong` says what the mutant gets wrong; `history` names the historical
    defect of Linux that it repeats, if it repeats one.
    """

    name: str
    file: str
    old: str
    new: str
    wrong: str
    history: str = ""

    def source(self, base: Path = ROOT) -> str:
        """Return the mutated source; `base` is the checkout, or a copy of it.

        Raises:
            ValueError: if the place is not there exactly once, nothing changes,
                or the result is not Python.
        """
        text = (base / "sim" / self.file).read_text(encoding="utf-8")
        if text.count(self.old) != 1:
            raise ValueError(f"{self.name}: the text stands {text.count(self.old)} times")
        mutated = text.replace(self.old, self.new)
        try:
            before, after = ast.parse(text), ast.parse(mutated)
        except SyntaxError as error:
            raise ValueError(f"{self.name}: not Python any more: {error}") from error
        if ast.dump(before) == ast.dump(after):
            raise ValueError(f"{self.name}: nothing changes")
        if len(before.body) != len(after.body):
            raise ValueError(f"{self.name}: a function came apart; is it indented?")
        return mutated
