"""The browser on a machine that runs: its refreshes show what the nested guests do meanwhile."""

import pytest
from textual.pilot import Pilot
from textual.widgets import DataTable

from nestscope.plugin.differential.session import open_machine
from nestscope.plugin.present.browse.app import Browser
from nestscope.plugin.present.browse.subject import OpenedSubject
from nestscope.plugin.qemu.lab import Lab
from nestscope.sim.guest import Guest
from nestscope.sim.layout import LAYOUT
from nestscope.sim.trace import parse

from .test_browse import drive

pytestmark = pytest.mark.kernel

BEFORE = f"""nestscope-trace 1
ptcr {LAYOUT.ptcr:#x}
map 1 0x1000000 0x900000 64K rwxRC
load 1 0x1000000
"""
MEANWHILE = """nestscope-trace 1
map 2 0x2000000 0x900000 64K rwxRC
load 2 0x2000000
"""
SECONDS = 40


@pytest.mark.parametrize("how", ["ram", "gdb"])
def test_a_chain_that_grows_is_seen_without_a_key(clean_lab: Lab, how: str) -> None:
    files = {"vmlinux": clean_lab.kernel.vmlinux, "modules": clean_lab.kernel.modules_dir}
    place = clean_lab.ram_path if how == "ram" else clean_lab.gdb_socket
    subject = OpenedSubject(f"{how}:{place}", **files)
    with open_machine(clean_lab) as live:
        guest = Guest()
        live.machine.execute(guest.setup())

        def run(trace: str) -> None:
            for operation in parse(trace):
                live.machine.execute(guest.lower(operation))

        run(BEFORE)
        first = subject.read()

        def shown(browser: Browser) -> str:
            table = browser.query_one("#table", DataTable)
            return " ".join(str(table.get_row_at(row)) for row in range(table.row_count))

        async def script(pilot: Pilot[None], browser: Browser) -> None:
            assert "(1, 0x1000000)" in shown(browser)
            assert "(2, 0x2000000)" not in shown(browser)
            run(MEANWHILE)
            for _ in range(10 * SECONDS):
                if "(2, 0x2000000) -> (1, 0x1000000)" in shown(browser):
                    break
                await pilot.pause(0.1)
            else:
                pytest.fail(f"after {SECONDS} s: {shown(browser)}")

        drive(Browser(subject, 0.2, first), script)
        # The target runs on after the look at it.
        assert clean_lab.agent.must(["hello"])[0].ok
