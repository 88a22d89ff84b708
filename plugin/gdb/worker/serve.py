"""The worker's loop: one command after the other, each with exactly one final message."""

import os
from typing import Any

from nestscope.decoders.errors import NestscopeError
from nestscope.plugin.gdb.inside.wire import Message
from nestscope.plugin.gdb.worker.answer import Answer, Request, rendered
from nestscope.plugin.gdb.worker.gdb_side import GdbGoneError, GdbSide
from nestscope.plugin.gdb.worker.session import Session
from nestscope.plugin.gdb.worker.verbs import VERBS


def serve(gdb: GdbSide) -> None:
    """Answer commands for ever.

    Raises:
        GdbGoneError: when GDB has closed the pipe.
    """
    session = Session(gdb)
    try:
        while True:
            command, _ = gdb.receive()
            gdb.send(_done(session, command))
    finally:
        session.close()


def _done(session: Session, command: Message) -> Message:
    """Return the final message: the answer, or one sentence that says why there is none."""
    try:
        return _answer(session, command)
    except GdbGoneError:
        raise
    except NestscopeError as error:
        return {"failed": str(error)}
    except Exception as error:
        # A defect of nestscope itself: one line, unless it is being looked for.
        if os.environ.get("NESTSCOPE_TRACEBACK"):
            raise
        return {
            "failed": f"internal error: {type(error).__name__}: {error}; please report it with "
            "what NESTSCOPE_TRACEBACK=1 prints"
        }


def _answer(session: Session, command: Message) -> Message:
    verb = VERBS[command["verb"]]
    request = Request(session, command)
    found: list[Answer] = []
    session.run(lambda: found.append(verb(request)))
    (answer,) = found
    message: dict[str, Any] = {"value": answer.value}
    if command.get("want") == "text":
        message["text"] = rendered(answer.views, command["width"], color=command["color"])
    elif command.get("want") == "json":
        message["document"] = answer.document
    return message
