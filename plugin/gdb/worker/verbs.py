"""Which function answers which verb."""

from collections.abc import Callable

from nestscope.plugin.gdb.worker.answer import Answer, Request
from nestscope.plugin.gdb.worker.chain import chain, chain_text
from nestscope.plugin.gdb.worker.decoding import decode
from nestscope.plugin.gdb.worker.objects import guests, slots, vms
from nestscope.plugin.gdb.worker.walking import walk_address

VERBS: dict[str, Callable[[Request], Answer]] = {
    "vms": vms,
    "slots": slots,
    "guests": guests,
    "chain": chain,
    "chain-text": chain_text,
    "walk": walk_address,
    "decode": decode,
}
