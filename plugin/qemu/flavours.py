"""Names of kernels: those of the tests, the newest of any suite, one exact build of a suite.

6.12-64k                        one of FLAVOURS
sid, trixie-backports           the newest of that suite of Debian, its base flavour
sid-64k                         the same, flavour with 64K pages
bookworm:6.1.0-47-powerpc64le   that very build, as long as the suite has it
"""

import re
from dataclasses import dataclass

from nestscope.plugin.qemu.apt import OWN_KERNEL_HINT
from nestscope.plugin.qemu.errors import LabError

DEFAULT_KERNEL = "6.12-64k"
_BASE = "linux-image-powerpc64le"
_LARGE_PAGES = "-64k"
SUITE = re.compile(r"[a-z]+(-[a-z]+)*")
# A release as `uname -r` prints it.
_RELEASE = re.compile(r"[0-9][\w.+~-]{2,100}")


@dataclass(frozen=True, slots=True)
class Flavour:
    """A kernel by name: the package of a suite (`release`) that leads to it."""

    name: str
    release: str
    package: str


FLAVOURS = {
    flavour.name: flavour
    for flavour in (
        Flavour("6.12-64k", "trixie", f"{_BASE}-64k"),
        Flavour("6.12-4k", "trixie", _BASE),
        Flavour("6.1-64k", "bookworm", _BASE),
    )
}
"""What the tests run on."""


def flavour(name: str) -> Flavour:
    """Return the flavour called `name`. Whether its suite exists shows when it is fetched.

    Raises:
        LabError: if it has none of the forms above.
    """
    if name in FLAVOURS:
        return FLAVOURS[name]
    suite, colon, release = name.partition(":")
    if colon:
        if SUITE.fullmatch(suite) and _RELEASE.fullmatch(release):
            return Flavour(name, suite, f"linux-image-{release}")
    elif SUITE.fullmatch(suite.removesuffix(_LARGE_PAGES)):
        large = suite.endswith(_LARGE_PAGES)
        return Flavour(
            name, suite.removesuffix(_LARGE_PAGES), _BASE + (_LARGE_PAGES if large else "")
        )
    raise LabError(
        f"there is no kernel '{name}': use one of {', '.join(FLAVOURS)}, a suite of Debian such "
        f"as sid or sid-64k, one build of it (SUITE:RELEASE), {OWN_KERNEL_HINT}"
    )
