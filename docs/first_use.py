"""Use nestscope as somebody who has only the README, and write down what happens.

python3 docs/first_use.py      in a fresh checkout; writes docs/first-use.md

Needs Python's standard library only: the first command installs the rest.
"""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
SHOWN = 34
"""Lines of output that the transcript keeps of each command."""
LIMIT = 1800
"""Seconds that a command may take."""
DOWNLOAD = re.compile(r"(Get|Hit|Ign|Err):\d+ ")
"""apt's lines about single files: where they come from is a matter of the machine."""
READY = "Ctrl-C ends the machine"

NESTSCOPE = ".venv/bin/nestscope"
TARGET = "target remote localhost:1234"
SECTIONS = {
    "The demo": ["make demo"],
    "A dump": [
        f"{NESTSCOPE} lab run --random 200 --seed 3 --dump dump.elf",
        f"{NESTSCOPE} state dump.elf",
        f"{NESTSCOPE} walk dump.elf 0x0 --lpid 1",
        f"{NESTSCOPE} check dump.elf",
        f"{NESTSCOPE} capture dump.elf -o small.elf.xz",
        f"{NESTSCOPE} report small.elf.xz -o report.html",
        "ls -l dump.elf small.elf.xz report.html",
    ],
    "A GDB session": [
        f"{NESTSCOPE} lab run --random 200 --seed 3 --gdb-port 1234 &",
        f"{NESTSCOPE} gdb -batch -ex '{TARGET}' -ex 'nested vms' -ex 'nested chain 0x80' "
        "-ex 'nested walk 0x0 --lpid 1'",
    ],
    "A campaign of five minutes": [f"{NESTSCOPE} campaign --for 5m --folder campaign"],
}
"""Commands as the README has them. One that ends in `&` runs beside the following ones."""


def main() -> int:
    """Run all sections, write the transcript, and return 0 if no command failed."""
    # A shell that runs this beside itself ignores Ctrl-C for it and for all it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    parts = [
        "# First use\n",
        "What a new user sees, with the commands of the README and nothing else. Written by",
        "`docs/first_use.py` on a fresh machine; long outputs are cut where it says so,",
        "and apt's lines about single downloads are left out.\n",
    ]
    failed = 0
    for title, commands in SECTIONS.items():
        parts.append(f"## {title}\n")
        beside = []
        for command in commands:
            started = time.monotonic()
            if command.endswith("&"):
                beside.append(start(command.removesuffix("&").strip()))
                status, output = 0, wait_until_ready(beside[-1])
            else:
                status, output = run(command)
            seconds = time.monotonic() - started
            # 1 means "findings", which is what a tool for finding them may say.
            failed += status not in {0, 1}
            parts.append(transcript(command, output, status, seconds))
        for process in beside:
            end(process)
    (ROOT / "docs" / "first-use.md").write_text("\n".join(parts), "utf-8")
    return 1 if failed else 0


def environment() -> dict[str, str]:
    """Return the environment of a user who types: no terminal features, 80 columns."""
    return os.environ | {"COLUMNS": "80", "TERM": "dumb", "NO_COLOR": "1"}


def run(command: str) -> tuple[int, str]:
    """Run a command to its end and return its status and output."""
    print(f"$ {command}", flush=True)
    done = subprocess.run(
        command,
        shell=True,
        cwd=ROOT,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    return done.returncode, done.stdout


def start(command: str) -> "subprocess.Popen[str]":
    """Start a command that stays."""
    print(f"$ {command} &", flush=True)
    return subprocess.Popen(
        command.split(),
        cwd=ROOT,
        env=environment() | {"PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_until_ready(process: "subprocess.Popen[str]") -> str:
    """Return what the process printed until it said that it stays."""
    lines = []
    assert process.stdout is not None
    for line in process.stdout:  # ends with the process, which bounds its own boot
        lines.append(line)
        if READY in line:
            break
    return "".join(lines)


def end(process: "subprocess.Popen[str]") -> None:
    """End a process as Ctrl-C does."""
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)


def transcript(command: str, output: str, status: int, seconds: float) -> str:
    """Return a command and its output as Markdown."""
    lines = [line.rstrip().replace(str(ROOT), "nestscope") for line in output.splitlines()]
    lines = [line.replace(str(Path.home()), "~") for line in lines if not DOWNLOAD.match(line)]
    lines = [re.sub(r"/\S*/nestscope-\w+/", "/dev/shm/nestscope-.../", line) for line in lines]
    if len(lines) > SHOWN:
        cut = len(lines) - SHOWN
        half = SHOWN // 2
        lines = [*lines[:half], f"... {cut} lines are left out here ...", *lines[-half:]]
    text = "\n".join(lines)
    return f"```text\n$ {command}\n{text}\n```\n\nStatus {status}, {seconds:.1f} s.\n"


if __name__ == "__main__":
    sys.exit(main())
