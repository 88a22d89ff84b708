"""Which blocks of the live kernel ran: the module's file, its place in memory, the counters.

with Lab.boot(files, coverage=True) as lab, open_machine(lab) as live:
    with open_coverage(lab, live.machine.kernel) as coverage:
        ...
        coverage.new_blocks()
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from nestscope.decoders.errors import NestscopeError
from nestscope.decoders.kernel.kernel import Kernel
from nestscope.plugin.differential.coverage.blocks import (
    FunctionBlocks,
    find_blocks,
    find_functions,
)
from nestscope.plugin.differential.coverage.module_text import Function, ModuleText
from nestscope.plugin.qemu.counters import Counters
from nestscope.plugin.qemu.lab import Lab

MODULE = "kvm_hv"
OBJECTIVE = (
    "kvmhv_insert_nest_rmap",
    "kvmhv_remove_nest_rmap_range",
    "kvmhv_update_nest_rmap_rc_list",
    "kvmhv_nested_page_fault",
    "kvmppc_create_pte",
    "kvmppc_unmap_pte",
    "kvmhv_emulate_tlbie_tlb_addr",
    "kvmhv_emulate_tlbie_lpid",
    "kvmhv_do_nested_tlbie",
    "kvmhv_invalidate_shadow_pte",
)
"""The functions that make, change and end nested mappings: those that are to be covered."""

INLINED = {
    "kvmhv_nested_page_fault": (
        "__kvmhv_nested_page_fault",
        "kvmhv_translate_addr_nested",
        "kvmhv_handle_nested_set_rc",
    ),
    "kvmhv_do_nested_tlbie": ("kvmhv_emulate_priv_tlbie", "kvmhv_emulate_tlbie_all_lpid"),
    "kvmhv_remove_nest_rmap_range": ("kvmhv_remove_nest_rmap_list", "kvmhv_remove_nest_rmap"),
    "kvmhv_update_nest_rmap_rc_list": ("kvmhv_update_nest_rmap_rc",),
}
"""Functions of the source that the compiler inlines, by the function that holds them."""

STEERING = (
    *OBJECTIVE,
    "*radix*",
    "kvmppc_unmap_free_*",
    "kvmppc_hv_handle_set_rc",
    "kvmppc_book3s_instantiate_page",
    "find_kvm_nested_guest_pte",
    "do_h_rpt_invalidate_pat",
    "kvmhv_enter_nested_guest",
    "kvmhv_flush_*",
    "kvmhv_get_nested",
    "kvmhv_put_nested",
    "kvmhv_release_*",
    "kvmhv_set_*",
    "kvmhv_update_ptbl_cache",
)
"""What a campaign is steered by: all of the nested and the radix code. Patterns of names."""


class Coverage:
    """The blocks of some functions, and which of them ran since it was made.

    A block is named by the offset of its first byte in the module's file. Another
    boot, or another machine with the same kernel, has the same offsets.
    """

    def __init__(
        self,
        text: ModuleText,
        functions: Sequence[FunctionBlocks],
        counters: Counters,
        addresses: NDArray[np.uint64],
    ) -> None:
        """`addresses` are the physical addresses of the blocks' first bytes, in their order."""
        self.text = text
        self.functions = tuple(functions)
        self._offsets = [block.start for some in functions for block in some.blocks]
        self._counters = counters
        self._addresses = addresses
        # Other code may have been there before the module was.
        self._before = counters.read(addresses)
        self._seen: NDArray[np.bool_] = np.zeros(len(addresses), bool)

    @property
    def offsets(self) -> frozenset[int]:
        """All blocks."""
        return frozenset(self._offsets)

    def counts(self) -> dict[int, int]:
        """Return how often each block ran since this object was made."""
        runs = self._counters.read(self._addresses) - self._before
        return dict(zip(self._offsets, runs.tolist(), strict=True))

    def new_blocks(self) -> frozenset[int]:
        """Return the blocks that ran for the first time since the last call."""
        ran = self._counters.read(self._addresses) != self._before
        new = np.flatnonzero(ran & ~self._seen)
        self._seen |= ran
        return frozenset(self._offsets[at] for at in new.tolist())


@contextmanager
def open_coverage(
    lab: Lab, kernel: Kernel, patterns: Sequence[str] = STEERING, text: ModuleText | None = None
) -> Iterator[Coverage]:
    """Begin to watch the functions that match `patterns` in a lab booted with `coverage`.

    `text` is the module's file, if the caller has read it already.

    Raises:
        NestscopeError: if the lab counts nothing, or the module's file does not fit it.
    """
    text = text or ModuleText.of_module(lab.kernel.modules_dir, MODULE)
    functions = [find_blocks(text, function) for function in find_functions(text, patterns)]
    places = [_physical(kernel, some) for some in functions]
    with Counters(lab.files.counters) as counters:
        yield Coverage(text, functions, counters, np.concatenate(places))


def _physical(kernel: Kernel, some: FunctionBlocks) -> NDArray[np.uint64]:
    """Return the physical address of each block of a function."""
    base = load_address(kernel, some.function) - some.function.offset
    places = [kernel.memory.translate(base + block.start) for block in some.blocks]
    return np.array(places, np.uint64)


def load_address(kernel: Kernel, function: Function, module: str = MODULE) -> int:
    """Return the virtual address of a function of a module in the running kernel.

    Raises:
        NestscopeError: if the module is not loaded, or has another function there.
    """
    table = kernel.module_symbols.get(module)
    symbol = table.get(function.name) if table is not None else None
    if symbol is None or symbol.size != function.size:
        raise NestscopeError(
            f"the running kernel has no {function.name} of {function.size} bytes in module "
            f"{module}: give the running kernel's --modules"
        )
    return symbol.address
