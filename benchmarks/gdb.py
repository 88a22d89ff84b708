"""Each command of the GDB plugin on the dump of a host with a guest of 64 GiB, in a real GDB.

Two hosts, with pages of 64 KiB and of 4 KiB; every gfn has a host leaf, one rmap entry
for 16.8 gfns in chains of up to 64. Seconds from the command to GDB's next prompt; the
first command also starts the worker and opens the dump.
"""

import tempfile
import time
from pathlib import Path

from nestscope.decoders.state import Source
from nestscope.decoders.words.pte import PTE_RPN
from nestscope.plugin.dumps.capture import capture, write_capture
from nestscope.plugin.gdb.terminal import GdbTerminal
from nestscope.sim.image.build import build_image
from nestscope.sim.image.profiles import profile_types
from nestscope.sim.image.synthetic import synthetic_state

GIB = 64
LIMIT = 1.0
REPEATS = 3
NESTED = 32


def run() -> None:
    """Print the seconds of each command, and which ones take longer than they may."""
    with tempfile.TemporaryDirectory(prefix="nestscope-") as folder:
        for page_shift in (16, 12):
            path = Path(folder) / f"{page_shift}.elf"
            commands = _build(path, page_shift)
            print(
                f"guest of {GIB} GiB in pages of {1 << page_shift >> 10} KiB: dump of "
                f"{path.stat().st_blocks >> 11} MiB"
            )
            _measure(path, commands)
            path.unlink()


def _build(path: Path, page_shift: int) -> list[str]:
    """Write the dump; return commands about places where there is something to see."""
    gfns = GIB << 30 >> page_shift
    state = synthetic_state(
        gfns=gfns,
        entries=gfns * 1_000_000 // (1 << 24),
        nested=NESTED,
        page_shift=page_shift,
    )
    image = build_image(state, profile_types("6.12-like"), seed=1)
    made = capture(image.memory, image.kernel, Source("model", "synthetic"), ())
    write_capture(made, image.memory, image.kernel, path)
    (vm,) = image.state.vms
    chains = vm.memslots[0].rmap
    gfn = int(chains.index["gfn"][len(chains) // 2])
    n_gpa = vm.nested[3].leaves.columns["address"][5]
    hpa = int(vm.host_leaves.columns["pte"][gfn]) & PTE_RPN
    return [
        "vms",
        "slots",
        "guests",
        f"chain {gfn:#x}",
        f"chain --gpa {gfn << page_shift:#x}",
        f"hostpage {hpa:#x}",
        f"walk {gfn << page_shift:#x}",
        f"walk {n_gpa:#x} --lpid {vm.nested[3].l1_lpid}",
        "decode pte 0xc000000002d50387",
        "stats",
        "target",
        "check",
    ]


def _measure(path: Path, commands: list[str]) -> None:
    with GdbTerminal(timeout=300.0) as gdb:
        gdb.run(f"core-file {path}")
        first = _seconds(gdb, "vms")
        print(f"    {first:6.3f} s  the first command (vms), with start and opening")
        for command in commands:
            took = min(_seconds(gdb, command) for _ in range(REPEATS))
            over = "" if took <= LIMIT or command == "check" else f"  MORE THAN {LIMIT} s"
            print(f"    {took:6.3f} s  nested {command}{over}")


def _seconds(gdb: GdbTerminal, command: str) -> float:
    started = time.perf_counter()
    shown = gdb.run(f"nested {command}")
    took = time.perf_counter() - started
    told = [line for line in shown.splitlines() if line.startswith("nested: ")]
    if any("read" not in line and "judging" not in line for line in told):
        raise SystemExit(f"nested {command}: {shown}")
    return took
