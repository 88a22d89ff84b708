"""The commands `nested ...`."""

import json
import os
import sys
from typing import Any, Dict

import gdb

from . import spec
from .process import Worker, WorkerError
from .target import Target, TargetError, unsigned
from .wire import Message

_FILES = ("modules", "profile", "debug")
# Decoding a word needs no target.
_WITHOUT_TARGET = ("decode",)


class Nested(gdb.Command):
    """See what KVM-HV on POWER does with nested guests."""

    def __init__(self) -> None:
        super(Nested, self).__init__("nested", gdb.COMMAND_DATA, gdb.COMPLETE_NONE, True)


class Link:
    """The way from a command to the worker and back; one for the whole GDB."""

    def __init__(self, python: str) -> None:
        self.target = Target()
        self.files: Dict[str, str] = dict.fromkeys(_FILES, "")
        self.worker = Worker(python, self.target.answer, _progress)

    def ask(self, verb: str, arguments: Dict[str, Any], want: str = "value") -> Message:
        """Return the worker's answer.

        Raises:
            gdb.GdbError: one sentence, which GDB prints.
        """
        message = {
            "verb": verb,
            "arguments": arguments,
            "want": want,
            "width": _width(),
            "color": _color(),
        }  # type: Message
        try:
            if verb not in _WITHOUT_TARGET:
                message["target"] = dict(self.files, **self.target.describe())
            answer = self.worker.request(message)
        except (TargetError, WorkerError) as error:
            raise gdb.GdbError("nested: {}".format(error))
        except gdb.error as error:
            raise gdb.GdbError("nested: GDB says: {}".format(error))
        except KeyboardInterrupt:
            raise gdb.GdbError("nested: interrupted")
        if "failed" in answer:
            raise gdb.GdbError("nested: {}".format(answer["failed"]))
        return answer


class VerbCommand(gdb.Command):
    """One command; its documentation comes from its specification."""

    def __init__(self, verb: spec.Verb, link: Link) -> None:
        self.__doc__ = spec.documentation(verb)
        self._verb = verb
        self.link = link
        super(VerbCommand, self).__init__("nested " + verb.name, gdb.COMMAND_DATA)

    def invoke(self, argument: str, from_tty: bool) -> None:  # noqa: ARG002 - GDB calls it so
        """Run the command."""
        self.dont_repeat()
        try:
            arguments = spec.parse(self._verb, gdb.string_to_argv(argument))
        except spec.UsageError as error:
            raise gdb.GdbError("nested {}: {}".format(self._verb.name, error))
        for name in list(arguments):
            if name not in ("word", "when", "json", "gpa"):
                arguments[name] = number(arguments[name])
        self.run(arguments, bool(arguments.pop("json", False)))

    def run(self, arguments: Dict[str, Any], as_json: bool) -> None:
        """Let the worker answer, and print that."""
        answer = self.link.ask(self._verb.name, arguments, "json" if as_json else "text")
        if as_json:
            gdb.write(json.dumps(answer["document"]) + "\n")
        else:
            gdb.write(answer["text"])

    def complete(self, text: str, word: str) -> Any:
        """Return what may follow."""
        words = text.split()
        last = words.pop() if words and not text.endswith(" ") else ""
        # GDB replaces `word` only, which begins after the last `-`.
        skipped = len(last) - len(word or "")
        found = spec.completions(self._verb, words, last)
        if not found and not last.startswith("-"):
            return gdb.COMPLETE_EXPRESSION
        return [name[max(skipped, 0) :] for name in found]


class FileSetting(gdb.Parameter):
    """A file or folder that describes the kernel, for `set nested ...`."""

    def __init__(self, name: str, what: str, link: Link) -> None:
        self.set_doc = "Set " + what
        self.show_doc = "Show " + what
        self._name = name
        self._link = link
        super(FileSetting, self).__init__(
            "nested " + name, gdb.COMMAND_DATA, gdb.PARAM_OPTIONAL_FILENAME
        )
        self.value = ""

    def get_set_string(self) -> str:
        """Take the new value over."""
        self._link.files[self._name] = str(self.value or "")
        return ""

    def get_show_string(self, value: str) -> str:
        """Return what `show` prints."""
        return value or "not set"


def number(text: str) -> int:
    """Return the unsigned value of an expression.

    Raises:
        gdb.GdbError: if it has none.
    """
    try:
        return unsigned(int(text, 0))
    except ValueError:
        pass
    try:
        return unsigned(gdb.parse_and_eval(text).cast(gdb.lookup_type("long")))
    except (gdb.error, ValueError) as error:
        raise gdb.GdbError("nested: {} has no value: {}".format(text, error))


def register_commands(link: Link) -> None:
    """Make the commands and settings known to GDB."""
    Nested()
    for verb in spec.VERBS:
        if verb.name != "break":  # see `breakpoints`
            VerbCommand(verb, link)
    for prefix in ("set", "show"):
        _prefix(prefix)
    FileSetting("modules", "the folder below which the kernel's modules are.", link)
    FileSetting("profile", "the stored profile of the kernel.", link)
    FileSetting("debug", "the folder below which the kernel's debug files are.", link)


def _prefix(kind: str) -> None:
    """Make `set nested` or `show nested`."""
    doc = "{} what describes the kernel to nestscope.".format(kind.capitalize())
    command = type("NestedSetting", (gdb.Command,), {"__doc__": doc})
    command("{} nested".format(kind), gdb.COMMAND_DATA, gdb.COMPLETE_NONE, True)


def _progress(text: str) -> None:
    """Show how far a long command is: one line that changes, or lines where it cannot."""
    end = "\r" if sys.stderr.isatty() else "\n"
    gdb.write("nested: {}{}".format(text, end), gdb.STDERR)
    gdb.flush(gdb.STDERR)


def _width() -> int:
    width = gdb.parameter("width")
    return width if isinstance(width, int) and 40 <= width <= 1000 else 100


def _color() -> bool:
    try:
        wanted = sys.stdout.isatty() or bool(os.environ.get("FORCE_COLOR"))
        return wanted and bool(gdb.parameter("style enabled"))
    except RuntimeError:
        return False
