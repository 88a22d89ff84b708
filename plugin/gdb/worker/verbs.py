"""Which function answers which verb."""

from collections.abc import Callable

from nestscope.plugin.gdb.worker.answer import Answer, Request
from nestscope.plugin.gdb.worker.auditing import check
from nestscope.plugin.gdb.worker.chain import chain, chain_text
from nestscope.plugin.gdb.worker.decoding import decode
from nestscope.plugin.gdb.worker.hostpage import hostpage
from nestscope.plugin.gdb.worker.objects import guests, slots, target, vm_address, vms
from nestscope.plugin.gdb.worker.statistics import stats
from nestscope.plugin.gdb.worker.walking import walk_address
from nestscope.plugin.gdb.worker.watching import chain_at, function, where

VERBS: dict[str, Callable[[Request], Answer]] = {
    "vms": vms,
    "slots": slots,
    "guests": guests,
    "chain": chain,
    "hostpage": hostpage,
    "walk": walk_address,
    "decode": decode,
    "stats": stats,
    "check": check,
    "target": target,
    "vm-address": vm_address,
    "chain-text": chain_text,
    "function": function,
    "chain-at": chain_at,
    "where": where,
}
