"""What following costs: a workload alone and followed, in turns, on one machine.

The workload maps guest pages into a nested guest and stores to each: two calls of
`kvmppc_create_pte` a page. Only the ratios matter: QEMU's part depends on the machine.
"""

import threading
import time

from nestscope.plugin.differential.follow.attach import attach
from nestscope.plugin.differential.follow.follower import Limits
from nestscope.plugin.differential.session import open_machine
from nestscope.plugin.qemu.kernels import fetch_kernel
from nestscope.plugin.qemu.lab import Lab
from nestscope.sim.guest import Guest
from nestscope.sim.layout import LAYOUT
from nestscope.sim.trace import parse

PAGES = 40
ROUNDS = 3
_FIRST_N_GPA, _FIRST_GPA, _STEP = 0x100_0000, 0x90_0000, 0x1_0000
_TEXT = "\n".join(
    [
        "nestscope-trace 1",
        f"ptcr {LAYOUT.ptcr:#x}",
        *(
            f"map 1 {_FIRST_N_GPA + at:#x} {_FIRST_GPA + at:#x} 64K rwxRC\n"
            f"store 1 {_FIRST_N_GPA + at:#x} 1"
            for at in range(0, PAGES * _STEP, _STEP)
        ),
    ]
)
OPERATIONS = tuple(parse(_TEXT))


def run() -> None:
    """Print the time alone and followed, with the RAM file and through the stub only."""
    with Lab.boot(fetch_kernel()) as lab:
        for _ in range(ROUNDS):
            alone, _, _ = _measure(lab, None)
            by_ram, calls, stops = _measure(lab, "ram")
            by_stub, _, _ = _measure(lab, "stub")
            print(
                f"alone {alone:.2f} s; followed with --ram {by_ram:.2f} s ({by_ram / alone:.0f} "
                f"times, {calls / by_ram:.1f} calls/s, {stops / by_ram:.1f} stops/s); through "
                f"the stub only {by_stub:.2f} s ({by_stub / by_ram:.2f} of that)"
            )


def _measure(lab: Lab, how: str | None) -> tuple[float, int, int]:
    """Return the workload's seconds, the calls that were checked, and the stops."""
    with open_machine(lab) as live:
        guest = Guest()
        live.machine.execute(guest.setup())
        taken = [0.0]

        def work() -> None:
            began = time.perf_counter()
            for operation in OPERATIONS:
                live.machine.execute(guest.lower(operation))
            taken[0] = time.perf_counter() - began

        worker = threading.Thread(target=work)
        calls = stops = 0
        if how is None:
            worker.start()
        else:
            ram = lab.ram_path if how == "ram" else None
            own = lab.kernel.vmlinux, lab.kernel.modules_dir
            with attach(f"gdb:{lab.gdb_socket}", *own, ram=ram) as follower:
                worker.start()
                limits = Limits(calls=2 * PAGES, seconds=600, whole_every=3600)
                follower.run(limits)
                calls, stops = follower.report.checked, follower.report.stops
                if follower.report.found:
                    raise SystemExit(f"a difference: {follower.report.found[0]}")
        worker.join()
    lab.agent.must(["destroy"])
    return taken[0], calls, stops
