"""Make the pictures of the documentation from the captures of real kernels.

python docs/pictures.py      writes docs/pictures/*.svg and report.png
"""

import asyncio
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from nestscope.plugin.present.browse.app import Browser
from nestscope.plugin.present.browse.subject import OpenedSubject

DOCS = Path(__file__).parent
PICTURES = DOCS / "pictures"
SAMPLE = "sample:6.12-64k"
BROWSER_KEYS = ["g", *"2:0x50010000", "enter"]

TERMINAL = {
    "state": ["state", SAMPLE],
    "chains": ["state", SAMPLE, "--figure"],
    "map": ["state", SAMPLE, "--map"],
    "walk": ["walk", SAMPLE, "0x50010000", "--lpid", "2"],
    "check": ["check", SAMPLE],
}
"""Picture: arguments of nestscope."""


def terminal_pictures() -> None:
    """Write a picture of each command's output."""
    for name, arguments in TERMINAL.items():
        target = PICTURES / f"{name}.svg"
        command = [sys.executable, DOCS / "terminal_picture.py", target, "--", "nestscope"]
        subprocess.run([*command, *arguments], check=False, timeout=60)


async def browser_picture() -> None:
    """Write a picture of the browser with a walk."""
    browser = Browser(OpenedSubject(SAMPLE))
    async with browser.run_test(size=(120, 40)) as pilot:
        await browser.workers.wait_for_complete()
        await pilot.pause()
        await pilot.press(*BROWSER_KEYS)
        await pilot.pause()
        (PICTURES / "browse.svg").write_text(browser.export_screenshot(), "utf-8")


def report_picture() -> None:
    """Write a picture of the report, as Chromium draws it."""
    with TemporaryDirectory(prefix="nestscope-pictures-") as folder:
        page = Path(folder) / "report.html"
        make = ["nestscope", "report", SAMPLE, "-o", page]
        subprocess.run(make, check=True, timeout=60)
        draw = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        draw += [f"--user-data-dir={folder}/profile", "--window-size=1060,1150"]
        draw += [f"--screenshot={PICTURES / 'report.png'}", page.as_uri()]
        subprocess.run(draw, check=True, timeout=120, stderr=subprocess.DEVNULL)


def main() -> None:
    """Write all pictures."""
    PICTURES.mkdir(exist_ok=True)
    terminal_pictures()
    asyncio.run(browser_picture())
    report_picture()


if __name__ == "__main__":
    main()
