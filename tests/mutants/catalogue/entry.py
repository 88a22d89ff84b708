"""H_ENTER_NESTED and the access in it: what is refused, leaves that mix two pages."""

from tests.mutants.mutant import Mutant

ENTRY = [
    Mutant(
        "mixed-leaf-takes-the-new-page",
        "create.py",
        "    frame = kvm.mix(first, second, shift)\n",
        "    frame = second\n",
        "a leaf that gains another page maps that page instead of the OR of both",
    ),
    Mutant(
        "mixed-leaf-compared-by-name",
        "kvm.py",
        "        if self.mixed:\n            left, right",
        "        if not self.mixed:\n            left, right",
        "a mixed leaf whose number is one of its pages' survives that page",
    ),
    Mutant(
        "version-compared-by-its-lower-half",
        "enter.py",
        "    if entry.version > VERSION:\n        return not_entered(H_P2)\n",
        "",
        "H_ENTER_NESTED takes a version with something in its upper half",
    ),
    Mutant(
        "token-not-checked",
        "enter.py",
        "    if entry.vcpu_token >= NR_CPUS:",
        "    if entry.vcpu_token > NR_CPUS:",
        "the first vcpu_token that is too large is taken",
    ),
    Mutant(
        "transactional-state-entered",
        "enter.py",
        "    if entry.msr & MSR_TS_MASK:\n        return not_entered(H_BAD_MODE)\n",
        "",
        "a nested guest is entered in transactional state",
    ),
    Mutant(
        "time-never-up",
        "enter.py",
        "        result = left(entry.cpu, TRAP_HDEC)\n    else:",
        "        result = left(entry.cpu, TRAP_SYSCALL)\n    else:",
        "an entry without time left looks like one that ran",
    ),
    Mutant(
        "quadrants-accepted",
        "nested_cpu.py",
        "if effective & ~EFFECTIVE_BITS in (0, 0xC000_0000_0000_0000):",
        "if effective & 0x3FF0_0000_0000_0000 == 0:",
        "an address in the hypervisor's quadrants is translated",
    ),
    Mutant(
        "freed-page-read-as-zeros",
        "nested_memory.py",
        "    return frame in memory.pages.values() or any(",
        "    return True or any(",
        "what lies in a page that the host took back is taken for zeros",
    ),
]
