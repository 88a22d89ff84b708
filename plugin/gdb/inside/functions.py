"""Convenience functions, for expressions and breakpoint conditions."""

from typing import Any, Dict, Tuple

import gdb

from .commands import Link
from .spec import WORDS
from .target import unsigned


class WordFunction(gdb.Function):
    """`$_nested_pte(VALUE [, "FIELD"])` and its like."""

    def __init__(self, word: str, link: Link) -> None:
        self.__doc__ = (
            "$_nested_{0}(VALUE [, FIELD]): decode a word, given in host order.\n"
            "With FIELD, the name of one field, its value as a number; else a text."
        ).format(word)
        self._word = word
        self._link = link
        super(WordFunction, self).__init__("_nested_" + word)

    def invoke(self, *values: Any) -> Any:
        """Return the decoded word."""
        if not 1 <= len(values) <= 2:
            raise gdb.GdbError("$_nested_{} takes a value and maybe a field".format(self._word))
        arguments = {"word": self._word, "value": unsigned(values[0])}
        if len(values) == 2:
            arguments["field"] = values[1].string()
        return self._link.ask("decode", arguments)["value"]


class ChainFunction(gdb.Function):
    """$_nested_chain(GFN [, VM]): the chain of a gfn as a text, head first."""

    name = "_nested_chain"
    fixed: Dict[str, Any] = {}
    takes: Tuple[str, ...] = ("place",)

    def __init__(self, link: Link) -> None:
        self._link = link
        super(ChainFunction, self).__init__(self.name)

    def invoke(self, *values: Any) -> Any:
        """Return what the worker says of the chain."""
        needed = len(self.takes)
        if not needed <= len(values) <= needed + 1:
            raise gdb.GdbError("usage: {}".format((self.__doc__ or "").split(":")[0]))
        arguments: Dict[str, Any] = dict(self.fixed)
        for name, value in zip((*self.takes, "vm"), values):
            arguments[name] = unsigned(value)
        return self._link.ask("chain-text", arguments)["value"]


class ChainLengthFunction(ChainFunction):
    """$_nested_chain_length(GFN [, VM]): how many entries the chain of a gfn has."""

    name = "_nested_chain_length"
    fixed: Dict[str, Any] = {"length": True}


class ChainHasFunction(ChainFunction):
    """$_nested_chain_has(GFN, L1_LPID, N_GPA [, VM]): 1 if the chain has that entry, else 0."""

    name = "_nested_chain_has"
    takes = ("place", "l1_lpid", "n_gpa")


def register_functions(link: Link) -> None:
    """Make the functions known to GDB."""
    for word in WORDS:
        WordFunction(word, link)
    for kind in (ChainFunction, ChainLengthFunction, ChainHasFunction):
        kind(link)
