"""The package sources that a Debian machine's apt uses: sources.list(5), both formats.

Nothing here knows a host name: another release of the same archive is made from
the URIs that this machine already trusts.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

# Names under which an archive calls its main suites; a codename is added by the caller.
_SUITE_ALIASES = frozenset({"stable", "oldstable", "oldoldstable", "testing", "unstable", "sid"})
_SUITE_SUFFIXES = {
    "": "",
    "-updates": "-updates",
    "-security": "-security",
    "/updates": "-security",
}
_UNUSABLE_SCHEMES = ("cdrom:",)
# Suites that stand alone: no updates, no security. A suite with a dash (trixie-backports)
# is an addition itself.
_ALONE = frozenset({"sid", "unstable", "experimental"})


@dataclass(frozen=True, slots=True)
class AptSource:
    """One archive: `deb URI SUITE COMPONENT...`. `check_valid_until` is False where it is off."""

    uri: str
    suite: str
    components: tuple[str, ...]
    check_valid_until: bool = True

    def line(self, architecture: str, keyring: Path) -> str:
        """Return it as a line of a sources.list, verified with `keyring`."""
        options = f"arch={architecture} signed-by={keyring}"
        if not self.check_valid_until:
            options += " check-valid-until=no"
        return f"deb [{options}] {self.uri} {self.suite} {' '.join(self.components)}"


def _stanzas(text: str) -> Iterator[dict[str, str]]:
    """Yield the stanzas of a deb822 file with lower-case field names."""
    stanza: dict[str, str] = {}
    field = ""
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        if not line.strip():
            if stanza:
                yield stanza
            stanza, field = {}, ""
        elif line[0] in " \t":
            if field:
                stanza[field] += f" {line.strip()}"
        else:
            name, colon, value = line.partition(":")
            if colon:
                field = name.strip().lower()
                stanza[field] = value.strip()
    if stanza:
        yield stanza


def _is_no(value: str) -> bool:
    return value.strip().lower() in {"no", "false", "0", "off", "without", "disable"}


def parse_deb822(text: str) -> list[AptSource]:
    """Return the enabled binary sources of a `.sources` file."""
    found: list[AptSource] = []
    for stanza in _stanzas(text):
        if _is_no(stanza.get("enabled", "yes")) or "deb" not in stanza.get("types", "").split():
            continue
        components = tuple(stanza.get("components", "").split())
        valid = not _is_no(stanza.get("check-valid-until", "yes"))
        found += [
            AptSource(uri, suite, components, valid)
            for uri in stanza.get("uris", "").split()
            for suite in stanza.get("suites", "").split()
            if not uri.startswith(_UNUSABLE_SCHEMES)
        ]
    return found


_ONE_LINE = re.compile(r"deb\s+(?:\[(?P<options>[^]]*)\]\s*)?(?P<rest>\S.*)")


def parse_list(text: str) -> list[AptSource]:
    """Return the binary sources of a `.list` file (one-line format)."""
    found: list[AptSource] = []
    for line in text.splitlines():
        matched = _ONE_LINE.fullmatch(line.partition("#")[0].strip())
        if matched is None:
            continue
        uri, *words = matched["rest"].split()
        if uri.startswith(_UNUSABLE_SCHEMES) or not words:
            continue
        options = dict(
            option.partition("=")[::2] for option in (matched["options"] or "").lower().split()
        )
        valid = not _is_no(options.get("check-valid-until", "yes"))
        found.append(AptSource(uri, words[0], tuple(words[1:]), valid))
    return found


def read_sources(main_file: Path, parts: Path) -> list[AptSource]:
    """Return what apt reads: the main list, then `*.list` and `*.sources` of the parts folder.

    A file that is missing or unreadable counts as empty, as it does for a user
    who may not read it.
    """
    files = [main_file]
    if parts.is_dir():
        files += sorted(path for path in parts.iterdir() if path.suffix in {".list", ".sources"})
    found: list[AptSource] = []
    for path in files:
        try:
            text = path.read_text(errors="replace")
        except OSError:
            continue
        found += parse_deb822(text) if path.suffix == ".sources" else parse_list(text)
    return found


def for_release(
    sources: Iterable[AptSource], machine_release: str, release: str
) -> list[AptSource]:
    """Return the sources of the machine's own distribution with the suite set to `release`.

    `machine_release` is the codename of the machine (os-release). Taken are its
    main, updates and security suites with component `main`, where `release` has
    such; everything else on the machine (backports, other vendors) is left out.
    """
    codenames = {machine_release, *_SUITE_ALIASES}
    alone = release in _ALONE or "-" in release
    found: list[AptSource] = []
    for source in sources:
        if "main" not in source.components:
            continue
        for name in codenames:
            suffix = source.suite.removeprefix(name)
            if source.suite.startswith(name) and suffix in _SUITE_SUFFIXES:
                if alone and suffix:
                    continue
                suite = release + _SUITE_SUFFIXES[suffix]
                changed = replace(source, suite=suite, components=("main",))
                if changed not in found:
                    found.append(changed)
    # The archive proper first: it is the one that must work.
    return sorted(found, key=lambda source: source.suite != release)
