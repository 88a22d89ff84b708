"""Run the benchmarks named on the command line, or all of them."""

import sys
from importlib import import_module

NAMES = (
    "model",
    "read_state",
    "drgn_listing",
    "capture_start",
    "differential",
    "campaign",
    "steering",
    "follow",
    "gdb",
)


def main() -> int:
    """Run each benchmark; its module prints its own figures."""
    wanted = sys.argv[1:] or list(NAMES)
    for name in wanted:
        if name not in NAMES:
            print(f"there is no benchmark {name!r}: use {', '.join(NAMES)}", file=sys.stderr)
            return 2
    for name in wanted:
        print(f"== {name}")
        import_module(f"benchmarks.{name}").run()
    return 0


sys.exit(main())
