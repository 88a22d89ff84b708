"""Jobs as processes of this machine: each has a lab machine of its own."""

import ctypes
import multiprocessing
import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.connection import Connection
from typing import Protocol

from nestscope.plugin.differential.campaign.tasks import (
    Failed,
    Options,
    Task,
    TaskResult,
    longest_seconds,
)
from nestscope.plugin.differential.campaign.work import Job

_END_SECONDS = 15.0
_PR_SET_PDEATHSIG = 1


class Pool(Protocol):
    """Places where tasks are done, one at a time each."""

    @property
    def slots(self) -> Sequence[str]:
        """Names of the places that can be used now."""
        ...

    def submit(self, slot: str, task: Task) -> None:
        """Begin a task in a place that is free."""
        ...

    def wait(self, seconds: float) -> list[tuple[str, TaskResult]]:
        """Return what has ended, waiting at most `seconds` for the first."""
        ...

    def close(self) -> None:
        """End everything, running tasks, too; bounded."""
        ...


@dataclass
class _Worker:
    process: multiprocessing.process.BaseProcess
    pipe: Connection
    busy: bool = False
    until: float = 0.0
    """When a task must have ended, by `time.monotonic`."""


class LocalPool:
    """A process for each job. One that ends or is stuck is replaced; its task counts as lost."""

    def __init__(self, jobs: int, options: Options) -> None:
        self._options = options
        # Spawned, not forked: nothing of ours (locks, sockets) is inherited.
        self._context = multiprocessing.get_context("spawn")
        self._workers: dict[str, _Worker] = {}
        for number in range(1, jobs + 1):
            self._start(f"job {number}")

    @property
    def slots(self) -> Sequence[str]:
        """Names of the jobs."""
        return list(self._workers)

    def pids(self) -> list[int]:
        """Return the process ids of the jobs."""
        return [each.process.pid for each in self._workers.values() if each.process.pid]

    def submit(self, slot: str, task: Task) -> None:
        """Begin a task."""
        worker = self._workers[slot]
        worker.busy = True
        worker.until = time.monotonic() + longest_seconds(task, self._options)
        with suppress(OSError):  # if it has ended, `wait` sees that
            worker.pipe.send(task)

    def wait(self, seconds: float) -> list[tuple[str, TaskResult]]:
        """Return what has ended, waiting at most `seconds` for the first."""
        busy = {each.pipe: slot for slot, each in self._workers.items() if each.busy}
        ready = connection.wait(list(busy), seconds)
        ended: list[tuple[str, TaskResult]] = []
        for pipe in ready:
            assert isinstance(pipe, Connection)
            slot = busy[pipe]
            try:
                result: TaskResult = pipe.recv()
            except (EOFError, OSError):
                result = self._replace(slot, "the job's process ended")
            self._workers[slot].busy = False
            ended.append((slot, result))
        now = time.monotonic()
        for slot, worker in list(self._workers.items()):
            if worker.busy and now >= worker.until:
                ended.append((slot, self._replace(slot, "the job was stuck and had to be ended")))
        return ended

    def _replace(self, slot: str, why: str) -> Failed:
        self._end(self._workers[slot], 0.0)
        self._start(slot)
        return Failed(why, "lost")

    def close(self) -> None:
        """End all jobs and their machines; bounded."""
        workers, self._workers = list(self._workers.values()), {}
        for worker in workers:
            with suppress(OSError):  # it may have ended already
                worker.pipe.send(None)
        limit = time.monotonic() + _END_SECONDS
        for worker in workers:
            self._end(worker, max(0.0, limit - time.monotonic()))

    def _start(self, slot: str) -> None:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=_serve, args=(theirs, self._options, os.getpid()), name=f"nestscope {slot}"
        )
        process.start()
        theirs.close()
        self._workers[slot] = _Worker(process, ours)

    def _end(self, worker: _Worker, seconds: float) -> None:
        worker.process.join(seconds)
        if worker.process.is_alive():
            worker.process.kill()  # its machine ends with it (see qemu/keeper.py)
            worker.process.join()
        worker.pipe.close()
        worker.process.close()


def _serve(pipe: Connection, options: Options, parent: int) -> None:
    """Do the tasks that come through the pipe until None or its end."""
    # Ctrl-C in a terminal is for the campaign, which then tells us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return  # it was killed before we asked to die with it
    job = Job(options)
    try:
        while (task := pipe.recv()) is not None:
            # Anything that comes while a task is done means: stop.
            pipe.send(job.do(task, pipe.poll))
    except (EOFError, OSError):
        pass  # the campaign is gone
    finally:
        job.close()
