"""Where the guest keeps what in its own memory."""

from dataclasses import dataclass, replace

KIB = 1 << 10
MIB = 1 << 20

VCPUS = 3
"""vCPUs of the guest; all but the first are used together with others only."""
MAILBOX_SIZE, STATE_SIZE = 0x100, 0x4000
"""Bytes from a vCPU's mailbox and state to those of the next."""

BLR = bytes.fromhex("2000804e")
"""The instruction `blr`, little-endian: what a fetch must find, so that it returns."""

NIP_LOAD = 0x0C
NIP_STORE = 0x14
NIP_RETURN = 0x24
NIP_DONE = 0x2C
"""Nested real addresses in the payload (`plugin/qemu/agent/payload.S`): its load, its
store, where a jump returns to, and the instruction after its last `sc 1`."""


@dataclass(frozen=True, slots=True)
class GuestLayout:
    """Guest real addresses in bytes; every area starts on a 64 KiB boundary.

    `code`: the stub that executes hypercalls. `mailbox`: hypercall number,
    arguments and results. `state`: `hv_guest_state`, with the nested guest's
    `pt_regs` 4 KiB after it. `payload`: code of the nested guests, mapped at
    nested real address 0. `roots`: root page directories (64 KiB each).
    `tables`: lower tables. `data`: free for mappings up to `size`.
    """

    size: int = 64 * MIB
    userspace_addr: int = 0x1000_0000_0000
    slot: int = 0
    code: int = 0x1_0000
    mailbox: int = 0x2_0000
    state: int = 0x3_0000
    partition_table: int = 0x4_0000
    partition_table_size: int = 64 * KIB
    roots: int = 0x10_0000
    tables: int = 0x60_0000
    payload: int = 0x80_0000
    data: int = 0x90_0000

    def of_vcpu(self, vcpu: int) -> "GuestLayout":
        """Return the layout with the mailbox and the state of another vCPU."""
        return (
            self
            if vcpu == 0
            else replace(
                self,
                mailbox=self.mailbox + vcpu * MAILBOX_SIZE,
                state=self.state + vcpu * STATE_SIZE,
            )
        )

    @property
    def regs(self) -> int:
        """`pt_regs` of the nested guest."""
        return self.state + 4 * KIB

    @property
    def ptcr(self) -> int:
        """The PTCR that names the whole partition table (PATS = log2(size) - 12)."""
        return self.partition_table | (self.partition_table_size.bit_length() - 1 - 12)


LAYOUT = GuestLayout()
