"""The report: a page that needs nothing else, opened in a real browser."""

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

import nestscope
from nestscope.decoders.compare import Difference
from nestscope.decoders.state import Chains, KernelInfo, Memslot, Source, State, Vm
from nestscope.plugin.present.report.page import Limits, report_page

CHROMIUM = shutil.which("chromium")


def sample_page(**others: object) -> str:
    with nestscope.open("sample:6.12-64k") as source:
        findings = source.check().documents()
        return report_page(source.state(), findings, made="now", **others)  # type: ignore[arg-type]


def state_of(name: str, chains: Chains) -> State:
    memslot = Memslot(0, 0, 1 << 24, 0x1000, 0, 0xC008000000000000, chains)
    vm = Vm(0xC000000000001000, 1, True, False, 0, (memslot,))
    return State(Source("raw", name), KernelInfo("6.12", 16), (vm,))


class Links(HTMLParser):
    """Collects what a page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [
            f"{tag} {value}" for name, value in attrs if name in {"src", "href", "srcset"}
        ]


def test_the_page_fetches_nothing() -> None:
    page = sample_page()
    links = Links()
    links.feed(page)
    assert links.found == []
    assert not re.search(r"https?:|url\(|@import|fetch\(", page)


def test_it_holds_the_chains_the_nested_guests_and_the_findings_of_the_sample() -> None:
    with nestscope.open("sample:6.12-64k") as source:
        state, findings = source.state(), source.check()
    page = sample_page()
    for guest in state.vms[0].nested:
        assert f"<td>{guest.shadow_pgtable:#x}</td>" in page
    assert page.count('class="chain"') == len(state.vms[0].memslots[0].rmap)
    audit = page.partition('<section id="findings">')[2].partition("</section>")[0]
    assert audit.count("<li data-row") == len(findings)
    assert [rule in audit for rule in ("I5.zero-entry", "I5.duplicate", "rmap.stale")] == [True] * 3
    assert "5 errors, 0 warnings, 1 worth knowing" in audit
    assert "Why it matters: <code>for_each_nest_rmap_safe</code> takes" in audit


def test_what_memory_says_is_text_and_never_markup() -> None:
    page = report_page(state_of("<script>alert(1)</script>", Chains()), [], made="<b>")
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_rows_over_the_limit_are_counted_and_not_listed() -> None:
    chains = Chains.build((gfn, 1, [(1, gfn << 16)]) for gfn in range(100))
    page = report_page(state_of("x", chains), [], made="now", limits=Limits(chains=10))
    assert page.count('class="chain"') == 10
    assert "90 more chains" in page


def test_findings_over_the_limit_are_counted_for_each_rule() -> None:
    finding = {"rule": "I1.entry", "severity": "error", "message": "name: <what>", "gfn": 16}
    others = {"rule": "I9.new", "severity": "warning", "message": "of a later release"}
    page = report_page(
        state_of("x", Chains()), [finding] * 30 + [others], made="now", limits=Limits(findings=4)
    )
    assert page.count("<li data-row") == 5
    assert "26 more are not listed here" in page
    assert "30 errors, 1 warning, 0 worth knowing" in page
    assert "name: &lt;what&gt; <small>gfn 0x10</small>" in page


def test_the_difference_to_a_second_source_is_listed() -> None:
    same = sample_page(differences=[], other="before.elf")
    differs = sample_page(differences=[Difference("vms[0].lpid", "1", "2")], other="before.elf")
    assert "No difference" in same
    assert "<td>vms[0].lpid</td><td>1</td><td>2</td>" in differs
    assert "Difference to" not in sample_page()


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine")
@pytest.mark.parametrize("sought", ["0x1234567a0000", "I5.duplicate"], ids=["an address", "a rule"])
def test_a_browser_draws_it_and_its_search_keeps_what_matches(tmp_path: Path, sought: str) -> None:
    path = tmp_path / "report.html"
    path.write_text(sample_page())
    arguments = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu"]
    arguments += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=2000"]
    dom = subprocess.run(
        [*arguments, "--dump-dom", f"{path.as_uri()}#q={sought}"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    rows = re.findall(r"<(?:tr|div|li)[^>]*data-row[^>]*>.*?</(?:tr|div|li)>", dom, re.DOTALL)
    shown = [row for row in rows if "hidden" not in row.split(">", 1)[0]]
    assert rows
    assert shown
    assert all(sought in row for row in shown)
    assert sum(sought in row for row in rows) == len(shown)
    assert f"{len(shown)} of {len(rows)} rows" in dom
