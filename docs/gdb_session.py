"""Record a session of a real GDB on a real kernel, for docs/gdb-session.md and its picture.

python docs/gdb_session.py      writes docs/gdb-session.md and docs/gdb-session.svg

A test runs `record` on the lab of the tests: what the page shows is what GDB prints.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from nestscope.plugin.differential.session import LiveMachine, open_machine
from nestscope.plugin.gdb.terminal import GdbTerminal
from nestscope.plugin.qemu.kernels import fetch_kernel
from nestscope.plugin.qemu.lab import Lab
from nestscope.sim.guest import Guest
from nestscope.sim.layout import LAYOUT
from nestscope.sim.trace import parse

DOCS = Path(__file__).parent
COLUMNS = 100
PICTURE_UP_TO = 6
"""The picture shows the first scenes, the page all of them."""

PAGE, FIRST, SECOND = 0x90_0000, 0x100_0000, 0x200_0000
PREPARED = f"""nestscope-trace 1
ptcr {LAYOUT.ptcr:#x}
write {PAGE:#x} 0x1
map 1 {FIRST:#x} {PAGE:#x} 64K rwxRC
load 1 {FIRST:#x}
map 2 {FIRST:#x} {PAGE:#x} 64K rwxRC
load 2 {FIRST:#x}
map 2 {SECOND:#x} {PAGE:#x} 64K rwxRC
map 3 0x3000000 {PAGE:#x} 64K rR
load 3 0x3000000
drop 3
"""
"""What has happened in the guest when GDB comes: two nested guests share a page, one is gone."""


@dataclass(frozen=True)
class Scene:
    """A command, what GDB printed (with colours), and why one asks it."""

    why: str
    command: str
    output: str

    @property
    def plain(self) -> str:
        """The output without colours and without blanks at line ends."""
        text = Text.from_ansi(self.output).plain
        return "\n".join(line.rstrip() for line in text.splitlines()).strip("\n")


def record(lab: Lab, live: LiveMachine) -> list[Scene]:
    """Let the guest do what PREPARED says, attach GDB, and ask."""
    guest = Guest()
    live.machine.execute(guest.setup())
    for operation in parse(PREPARED):
        live.machine.execute(guest.lower(operation))
    with GdbTerminal([lab.kernel.vmlinux], color=True) as gdb:
        gdb.run(f"target remote {lab.gdb_socket}")
        scenes = list(_look(gdb, live))
        scenes += _watch(gdb, lab)
        scenes.append(_scene(gdb, "Is everything consistent?", "nested check"))
        gdb.run("detach")
    return scenes


def _scene(gdb: GdbTerminal, why: str, command: str) -> Scene:
    return Scene(why, command, gdb.run(command))


def _look(gdb: GdbTerminal, live: LiveMachine) -> Iterator[Scene]:
    (vm,) = live.machine.state().vms
    page_shift = live.machine.kernel.page_shift
    leaf = vm.host_leaves.covering(PAGE)
    assert leaf is not None
    gfn = PAGE >> page_shift
    yield _scene(gdb, "Which VMs does this host run?", "nested vms")
    yield _scene(gdb, "Which nested guests does the VM have?", "nested guests")
    yield _scene(gdb, "Who maps this page of the guest?", f"nested chain {gfn:#x}")
    host = leaf.pte & 0x01FF_FFFF_FFFF_F000
    yield _scene(gdb, "Who maps this page of the host?", f"nested hostpage {host:#x}")
    yield _scene(gdb, "How does the nested guest get there?", f"nested walk {FIRST:#x} --lpid 2")
    yield _scene(gdb, "What does a word say?", f"nested decode pte {leaf.pte:#x}")
    yield _scene(gdb, "The same in an expression.", f'p $_nested_pte({leaf.pte:#x}, "rpn")')
    yield _scene(
        gdb,
        "A chain as a value, for a condition.",
        f"p $_nested_chain_has({gfn:#x}, 2, {FIRST:#x})",
    )
    yield _scene(gdb, "What do the rmaps hold, and what of it is stale?", "nested stats")


def _watch(gdb: GdbTerminal, lab: Lab) -> Iterator[Scene]:
    why = "Stop when nested guest 2 gets this mapping, and when it loses it."
    yield _scene(gdb, why, f"nested break both 2 {SECOND:#x}")
    lab.agent.submit([f"enter 2 0x0 {SECOND:#x} 0 0 {LAYOUT.state:#x}"])
    yield _scene(gdb, "The nested guest touches the page.", "continue")
    gdb.send("continue")
    lab.agent.collect(1)
    lab.agent.submit([f"discard {PAGE:#x} 0x10000"])
    yield Scene("The host takes the page away.", "continue", gdb.wait())
    gdb.send("continue")
    lab.agent.collect(1)
    gdb.interrupt()
    gdb.wait()


def page(scenes: list[Scene], release: str) -> str:
    """Return the page of the documentation."""
    parts = [
        "# A session in GDB",
        f"Recorded by `docs/gdb_session.py`: `gdb-multiarch` on Linux {release} in a QEMU pseries "
        "machine.\nA test runs the same script. Two nested guests map one page of the guest; "
        "a third is gone, and left an entry behind.",
        "![the beginning of the session](gdb-session.svg)",
    ]
    parts += [
        f"{scene.why}\n\n```text\n(gdb) {scene.command}\n{scene.plain}\n```" for scene in scenes
    ]
    return "\n\n".join(parts) + "\n"


def picture(scenes: list[Scene]) -> str:
    """Return the beginning of the session as SVG."""
    with Path(os.devnull).open("w") as nowhere:
        console = Console(record=True, width=COLUMNS, file=nowhere, force_terminal=True)
        for scene in scenes[:PICTURE_UP_TO]:
            console.print(Text(f"(gdb) {scene.command}", style="bold"))
            console.print(Text.from_ansi(scene.output.rstrip("\n")))
        return console.export_svg(title="nestscope in GDB")


def main() -> None:
    """Boot a machine, record, and write page and picture."""
    with Lab.boot(fetch_kernel()) as lab, open_machine(lab) as live:
        scenes = record(lab, live)
        (DOCS / "gdb-session.md").write_text(page(scenes, lab.kernel.release), "utf-8")
    (DOCS / "gdb-session.svg").write_text(picture(scenes), "utf-8")


if __name__ == "__main__":
    main()
