"""Every seeded defect is found by a campaign of at most five minutes, on every kernel."""

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from nestscope.decoders.errors import NestscopeError
from nestscope.plugin.differential.campaign.campaign import Campaign, Limits
from nestscope.plugin.differential.campaign.defects import DEFECTS
from nestscope.plugin.differential.campaign.folder import CampaignFolder
from nestscope.plugin.differential.campaign.pool import LocalPool
from nestscope.plugin.differential.campaign.programs import PROFILES, Programs
from nestscope.plugin.differential.campaign.tasks import Options, Target
from nestscope.plugin.qemu.errors import LabError
from nestscope.plugin.qemu.initramfs import build_agent
from nestscope.plugin.qemu.kernels import FLAVOURS, fetch_kernel

MINUTES = 5
SHRINK_TRIES = 40
"""Enough to see that it is shrunk at all; how far is for other tests."""
NO_SUCH_CODE = {("rights-granted", "6.1-64k")}
"""There the compiler made other instructions of it, which no pattern is for: it is refused."""

pytestmark = [pytest.mark.kernel, pytest.mark.nightly, pytest.mark.timeout(MINUTES * 60 + 120)]


@pytest.fixture(params=FLAVOURS)
def kernel(request: pytest.FixtureRequest) -> Iterator[str]:
    name: str = request.param
    try:
        build_agent()
        fetch_kernel(name)
    except LabError as problem:
        pytest.skip(str(problem))
    yield name


@pytest.mark.parametrize("machine", ["pseries", "powernv9"])
@pytest.mark.parametrize("name", DEFECTS)
def test_a_campaign_finds_it(kernel: str, machine: str, name: str, tmp_path: Path) -> None:
    target = Target(kernel, machine)
    programs = Programs(range(1, 21), 300, tuple(PROFILES))
    limits = Limits(seconds=MINUTES * 60.0, first=True)
    started = time.monotonic()
    with (
        closing(CampaignFolder.open(tmp_path)) as folder,
        closing(LocalPool(1, Options(defects=(name,), shrink_tries=SHRINK_TRIES))) as pool,
    ):
        campaign = Campaign(folder, pool, (target,), programs, limits)
        if (name, kernel) in NO_SUCH_CODE:
            with pytest.raises(NestscopeError, match="has no place"):
                campaign.run()
            return
        campaign.run()
        seconds = time.monotonic() - started
        (finding,) = folder.findings.values()
        print(
            f"{name} on {target}: {seconds:.0f} s, {finding.signature}, {finding.length} operations"
        )
        assert finding.shrunk
        account = (tmp_path / "findings" / finding.name / "account.md").read_text()
    assert finding.signature in account
