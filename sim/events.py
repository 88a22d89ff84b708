"""Events: what the guest and its VMM do, one step of kernel and model alike.

All addresses are bytes, all numbers unsigned. The guest agent executes an event
in the real machine; `sim.model.Model.step` executes it in the model.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

AccessKind = Literal["load", "store", "fetch"]


@dataclass(frozen=True, slots=True)
class CreateVm:
    """The VMM makes a VM with nested virtualisation enabled and one vCPU."""


@dataclass(frozen=True, slots=True)
class AddSlot:
    """The VMM maps fresh anonymous private memory (no huge pages) and makes it a memslot.

    `gpa` and `size` in bytes, `userspace_addr` is the address in the VMM.
    """

    slot: int
    gpa: int
    size: int
    userspace_addr: int


@dataclass(frozen=True, slots=True)
class LoadCode:
    """The VMM writes the guest's stub and the nested payload through its own mapping."""


@dataclass(frozen=True, slots=True)
class Write:
    """The VMM writes `data` to guest memory at `gpa` through its own mapping."""

    gpa: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Hcall:
    """The guest's stub executes hypercall `number` with `args` in r4 and up."""

    number: int
    args: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Access:
    """The guest enters nested guest `l1_lpid` once: one access, then `sc 1`.

    `address` is a nested real address, 8-byte aligned for load and store, 4-byte
    aligned for fetch, which jumps to a `blr`. `value` is what a store stores
    (8 bytes, little-endian). The payload runs in real mode from nested real
    address 0. The VMM fills `hv_guest_state` and the nested registers before.
    """

    l1_lpid: int
    kind: AccessKind
    address: int
    value: int = 0


@dataclass(frozen=True, slots=True)
class Discard:
    """The VMM gives host pages back: madvise(MADV_DONTNEED) of the guest range."""

    gpa: int
    length: int


Event = CreateVm | AddSlot | LoadCode | Write | Hcall | Access | Discard


class Result(NamedTuple):
    """What an event reports. None: the model does not predict the field.

    `ret`: r3 of the hypercall (two's complement, 64 bits); for an `Access` the
    trap (0xc00 when the payload reached its `sc 1`, 0xe00, 0xe20) or the error
    of H_ENTER_NESTED; for a `Discard` the result of madvise(2); else 0.
    `value`: what a load loaded (8 bytes, little-endian).
    `nip`, `msr`: of the nested guest at its exit. `r3`: 0 when the payload did
    its access, else the vector of the interrupt that it took itself.
    `hdar`, `hdsisr`, `asdr`: of `hv_guest_state` at the exit; the guest had
    cleared them before.
    """

    ret: int = 0
    value: int | None = None
    r3: int | None = None
    nip: int | None = None
    msr: int | None = None
    hdar: int | None = None
    hdsisr: int | None = None
    asdr: int | None = None


DONE = Result()
