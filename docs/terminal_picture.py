"""Run a command in a terminal's manner and keep what it prints as an SVG picture.

python docs/terminal_picture.py docs/demo.svg -- nestscope diff
"""

import os
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

COLUMNS = 100


def main() -> int:
    """Write the picture and return the command's exit status."""
    target, separator, *command = sys.argv[1:]
    if separator != "--" or not command:
        print("usage: terminal_picture.py FILE.svg -- COMMAND...", file=sys.stderr)
        return 2
    environment = os.environ | {
        "FORCE_COLOR": "1",
        "COLUMNS": str(COLUMNS),
        "TERM": "xterm-256color",
    }
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, text=True, timeout=600, check=False
    )
    with Path(os.devnull).open("w") as nowhere:
        console = Console(record=True, width=COLUMNS, file=nowhere, force_terminal=True)
        console.print(Text(f"$ {' '.join(command)}", style="bold"))
        console.print(Text.from_ansi(done.stdout))
        Path(target).write_text(console.export_svg(title="nestscope"), encoding="utf-8")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
