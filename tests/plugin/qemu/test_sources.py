"""The machine's package sources become those of another release of the same archive."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestscope.plugin.qemu.sources import (
    AptSource,
    for_release,
    parse_deb822,
    parse_list,
    read_sources,
)

KEYRING = Path("/usr/share/keyrings/archive.gpg")

CONTAINER = """\
Types: deb
# http://snapshot.example/archive/20250520T000000Z
URIs: http://archive.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://archive.example/debian-security
Suites: bookworm-security
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
"""


def suites(sources: list[AptSource]) -> list[tuple[str, str]]:
    return [(source.uri, source.suite) for source in sources]


def test_container_sources_in_deb822_form() -> None:
    assert suites(parse_deb822(CONTAINER)) == [
        ("http://archive.example/debian", "bookworm"),
        ("http://archive.example/debian", "bookworm-updates"),
        ("http://archive.example/debian-security", "bookworm-security"),
    ]


def test_deb822_fields_continue_on_indented_lines_and_ignore_case() -> None:
    text = (
        "types: deb deb-src\nURIS:\n http://one.example/debian\n http://two.example/debian\n"
        "suites: trixie\ncomponents: main contrib\nsigned-by:\n"
        " -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mDMEY\n -----END PGP PUBLIC KEY BLOCK-----\n"
    )
    assert parse_deb822(text) == [
        AptSource("http://one.example/debian", "trixie", ("main", "contrib")),
        AptSource("http://two.example/debian", "trixie", ("main", "contrib")),
    ]


def test_disabled_and_source_only_stanzas_are_left_out() -> None:
    body = "URIs: http://a.example/debian\nSuites: bookworm\nComponents: main\n"
    assert parse_deb822(f"Enabled: no\nTypes: deb\n{body}") == []
    assert parse_deb822(f"Types: deb-src\n{body}") == []


def test_one_line_form_with_options_and_comments() -> None:
    text = (
        "# deb http://old.example/debian bookworm main\n"
        "deb [ arch=amd64 signed-by=/k.gpg ] https://a.example/debian bookworm main contrib # x\n"
        "deb-src https://a.example/debian bookworm main\n"
        "deb cdrom:[Debian GNU/Linux 12 _Bookworm_]/ bookworm main\n"
        "deb [check-valid-until=no] http://snap.example/debian bookworm main\n"
    )
    assert parse_list(text) == [
        AptSource("https://a.example/debian", "bookworm", ("main", "contrib")),
        AptSource("http://snap.example/debian", "bookworm", ("main",), check_valid_until=False),
    ]


@pytest.mark.parametrize("release", ["sid", "experimental", "trixie-backports"])
def test_a_suite_that_stands_alone_has_no_updates_and_no_security(release: str) -> None:
    got = for_release(parse_deb822(CONTAINER), "bookworm", release)
    assert suites(got) == [("http://archive.example/debian", release)]


def test_release_replaces_the_codename_and_keeps_the_kind_of_suite() -> None:
    got = for_release(parse_deb822(CONTAINER), "bookworm", "trixie")
    assert suites(got) == [
        ("http://archive.example/debian", "trixie"),
        ("http://archive.example/debian", "trixie-updates"),
        ("http://archive.example/debian-security", "trixie-security"),
    ]


def test_old_security_suite_name_and_aliases_are_understood() -> None:
    sources = parse_list(
        "deb http://s.example/debian-security bookworm/updates main\n"
        "deb http://a.example/debian stable main\n"
    )
    assert suites(for_release(sources, "bookworm", "trixie")) == [
        ("http://a.example/debian", "trixie"),
        ("http://s.example/debian-security", "trixie-security"),
    ]


def test_other_vendors_and_backports_are_left_out() -> None:
    sources = parse_list(
        "deb https://packages.vendor.example/apt cloud-sdk-bookworm main\n"
        "deb https://node.vendor.example/node nodistro main\n"
        "deb https://containers.vendor.example/debian bookworm stable\n"
        "deb http://a.example/debian bookworm-backports main\n"
        "deb http://flat.example/debian ./\n"
    )
    assert for_release(sources, "bookworm", "trixie") == []


def test_a_line_names_keyring_and_architecture_and_never_trusts_blindly() -> None:
    line = AptSource("http://a.example/debian", "trixie", ("main",)).line("ppc64el", KEYRING)
    assert line == (
        "deb [arch=ppc64el signed-by=/usr/share/keyrings/archive.gpg] "
        "http://a.example/debian trixie main"
    )


def test_parts_are_read_by_suffix_only(tmp_path: Path) -> None:
    parts = tmp_path / "sources.list.d"
    parts.mkdir()
    (parts / "debian.sources").write_text(CONTAINER)
    (parts / "extra.list").write_text("deb http://b.example/debian bookworm main\n")
    (parts / "old.list.disabled").write_text("deb http://c.example/debian bookworm main\n")
    found = read_sources(tmp_path / "missing.list", parts)
    assert [source.uri for source in found] == [
        *["http://archive.example/debian"] * 2,
        "http://archive.example/debian-security",
        "http://b.example/debian",
    ]


@given(st.text(max_size=400))
def test_any_text_parses_without_an_exception(text: str) -> None:
    for source in parse_deb822(text) + parse_list(text):
        assert source.uri
        assert source.suite
