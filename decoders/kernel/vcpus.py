"""vCPUs of a VM, as far as they are in a nested guest: `vcpu->arch.nested`."""

import struct

from nestscope.decoders.errors import UnreadableMemoryError
from nestscope.decoders.kernel.byteorder import prefix
from nestscope.decoders.kernel.memory import KernelMemory
from nestscope.decoders.kernel.record import Record
from nestscope.decoders.kernel.types import Types, UnknownTypeError
from nestscope.decoders.kernel.xarray import XArrayReader
from nestscope.decoders.state import Problem, Running

MAX_VCPUS = 1 << 16
"""vCPUs of one VM that are read at most; the kernel has 2048 (KVM_MAX_VCPUS)."""


class VcpuReader:
    """Finds the vCPUs of a VM that are in a nested guest; layouts are looked up once.

    Since c5b077549136 ("KVM: Convert the kvm->vcpus array to a xarray") vCPUs are in the
    XArray `vcpu_array`, before in the array of pointers `vcpus[]`. Where the types know
    neither, or no `kvm_vcpu.arch.nested`, nothing is known of vCPUs.
    """

    def __init__(self, types: Types, memory: KernelMemory) -> None:
        """Prepare to read with the layouts of `types`. Nothing is raised."""
        self._memory = memory
        self._vcpu: Record | None = None
        self._array = None
        head = types.first("kvm", "vcpu_array.xa_head")
        try:
            self._vcpu = Record(types, "kvm_vcpu", ["vcpu_id", "arch.nested"], memory.byteorder)
            if head is not None:
                self._head = types.offset("kvm", head)
                self._xarray = XArrayReader(types, memory)
            else:
                self._array = types.member("kvm", "vcpus")
        except UnknownTypeError:
            self._vcpu = None

    def running(self, kvm: int, path: str) -> tuple[tuple[Running, ...] | None, list[Problem]]:
        """Return the vCPUs of the VM at `kvm` that are in a nested guest, and what is wrong.

        None: this kernel's types do not tell.
        """
        if self._vcpu is None:
            return None, []
        try:
            vcpus, problems = self._vcpus(kvm, path)
        except UnreadableMemoryError as error:
            return None, [Problem(path, f"its vCPUs: {error}", kvm)]
        found: list[Running] = []
        for vcpu in vcpus[:MAX_VCPUS]:
            try:
                number, nested = self._vcpu.read_numbers(self._memory, vcpu)
            except UnreadableMemoryError as error:
                problems.append(Problem(path, f"struct kvm_vcpu: {error}", vcpu))
                continue
            if nested:
                found.append(Running(number, nested))
        return tuple(sorted(found)), problems

    def vcpus(self, kvm: int) -> list[int]:
        """Return the address of every `struct kvm_vcpu` of the VM at `kvm` that can be found.

        Raises:
            UnreadableMemoryError: if the bytes of `struct kvm` cannot be read.
        """
        return [] if self._vcpu is None else self._vcpus(kvm, "vcpus")[0]

    def _vcpus(self, kvm: int, path: str) -> tuple[list[int], list[Problem]]:
        if self._array is None:
            entries, problems = self._xarray.entries(self._memory.u64(kvm + self._head), path)
            return [vcpu for _, vcpu in entries], problems
        data = self._memory.read(kvm + self._array.offset, self._array.size)
        pointers = struct.unpack(f"{prefix(self._memory.byteorder)}{len(data) // 8}Q", data)
        return [pointer for pointer in pointers if pointer], []
