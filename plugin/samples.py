"""The captures that come with the package: `sample:NAME`.

Made by scripts/make-samples from lab machines after a run of random operations.
"""

from importlib.resources import files
from pathlib import Path

from nestscope.decoders.errors import NestscopeError

SAMPLE_PREFIX = "sample:"
DEFAULT_SOURCE = SAMPLE_PREFIX
"""The source when none is given: the first sample."""

SAMPLE_SUFFIX = ".elf.xz"


def sample_names() -> list[str]:
    """Return the names of the samples, the default one first."""
    names = sorted(
        path.name.removesuffix(SAMPLE_SUFFIX) for path in _folder().glob("*" + SAMPLE_SUFFIX)
    )
    # The newest kernel with the pages that most hosts have.
    return sorted(names, key=lambda name: (not name.endswith("-64k"), name.startswith("6.1-")))


def sample_path(source: str) -> Path:
    """Return the file of `sample:NAME`, or of the first sample for `sample:`.

    Raises:
        NestscopeError: if there is none of that name; the text lists them.
    """
    names = sample_names()
    name = source.removeprefix(SAMPLE_PREFIX) or (names[0] if names else "")
    if name not in names:
        known = ", ".join(SAMPLE_PREFIX + each for each in names) or "none"
        raise NestscopeError(f"there is no sample {name!r}; the samples are: {known}")
    return _folder() / (name + SAMPLE_SUFFIX)


def _folder() -> Path:
    # Installed packages are always folders: pyproject.toml says zip-unsafe by default.
    return Path(str(files("nestscope") / "samples"))
