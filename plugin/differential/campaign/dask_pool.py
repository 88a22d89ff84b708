"""Jobs on a Dask cluster: one lab machine for each Dask worker process."""

import contextlib
import threading
import time
from collections.abc import Sequence
from typing import Any

from nestscope.decoders.errors import NestscopeError
from nestscope.plugin.differential.campaign.tasks import Failed, Options, Task, TaskResult
from nestscope.plugin.differential.campaign.work import Job

_CONNECT_SECONDS = 5.0
_END_SECONDS = 20.0
_GONE_SECONDS = 10.0
"""How long a worker must be missing before its task counts as lost."""

# In a worker's process: its job, who uses it, and whether it is to end.
_jobs: dict[Options, Job] = {}
_in_use = threading.Lock()
_stop = threading.Event()


def _do(task: Task, options: Options) -> TaskResult:
    """Do a task in a Dask worker. The lab machine stays for the next one."""
    with _in_use:
        job = _jobs.setdefault(options, Job(options))
        return job.do(task, _stop.is_set)


def _begin_jobs() -> None:
    _stop.clear()


def _stop_jobs() -> None:
    _stop.set()


def _end_jobs() -> None:
    """End the lab machine of this Dask worker; in a thread of its own, as any task."""
    with _in_use:
        while _jobs:
            _jobs.popitem()[1].close()


class DaskPool:
    """The workers of an existing Dask cluster; each does one task at a time.

    The kernels and QEMU must be there on every machine of the cluster.
    """

    def __init__(self, scheduler: str, jobs: int, options: Options) -> None:
        """Connect to the scheduler and use up to `jobs` of its workers (1: all of them).

        Raises:
            NestscopeError: if Dask is not installed, or nobody answers there.
        """
        try:
            from distributed import Client  # noqa: PLC0415  (optional)
        except ImportError as problem:
            raise NestscopeError(
                f"Dask cannot be used ({problem}): install nestscope[cluster], or leave out --dask"
            ) from None
        self._options = options
        self._scheduler = scheduler
        try:
            self._client: Any = Client(  # type: ignore[no-untyped-call]
                scheduler, timeout=_CONNECT_SECONDS, set_as_default=False
            )
        except (OSError, TimeoutError, ValueError) as problem:
            raise NestscopeError(f"no Dask scheduler answers at {scheduler}: {problem}") from None
        self._most = jobs if jobs > 1 else None
        self._futures: dict[str, Any] = {}
        self._missing: dict[str, float] = {}
        self._client.run(_begin_jobs)
        if not self.slots:
            self.close()
            raise NestscopeError(f"the Dask cluster at {scheduler} has no worker: start some")

    @property
    def slots(self) -> Sequence[str]:
        """Addresses of the cluster's workers now.

        Raises:
            NestscopeError: if the scheduler is gone.
        """
        try:
            workers = sorted(self._client.scheduler_info(n_workers=-1)["workers"])
        except (KeyError, OSError, RuntimeError) as problem:
            # Without a scheduler the answer is empty.
            raise NestscopeError(
                f"the Dask scheduler at {self._scheduler} does not answer any more: start the "
                "cluster again, the same command goes on from here"
            ) from problem
        return workers[: self._most]

    def submit(self, slot: str, task: Task) -> None:
        """Begin a task on a worker."""
        self._futures[slot] = self._client.submit(
            _do, task, self._options, workers=[slot], allow_other_workers=False, pure=False
        )

    def wait(self, seconds: float) -> list[tuple[str, TaskResult]]:
        """Return what has ended, waiting at most `seconds` for the first."""
        limit = time.monotonic() + seconds
        while True:
            present = set(self.slots)
            ended = []
            for slot, future in list(self._futures.items()):
                if future.done() or self._is_gone(slot, present):
                    del self._futures[slot]
                    ended.append((slot, _result(future)))
            if ended or time.monotonic() >= limit:
                return ended
            time.sleep(0.02)

    def _is_gone(self, slot: str, present: set[str]) -> bool:
        """Whether a worker has been missing for so long that it will not come back."""
        if slot in present:
            self._missing.pop(slot, None)
            return False
        now = time.monotonic()
        return now - self._missing.setdefault(slot, now) >= _GONE_SECONDS

    def close(self) -> None:
        """End the lab machines of the cluster and leave it; bounded."""
        # A worker that is gone took its machine with it.
        with contextlib.suppress(Exception):
            self._client.cancel(list(self._futures.values()))
            self._client.run(_stop_jobs, on_error="ignore")
            ends = [
                self._client.submit(_end_jobs, workers=[slot], pure=False) for slot in self.slots
            ]
            for end in ends:
                end.result(timeout=_END_SECONDS)
        with contextlib.suppress(Exception):
            self._client.close(timeout=_END_SECONDS)


def _result(future: Any) -> TaskResult:
    """Return what a task gave; a worker that ended lost it."""
    try:
        result: TaskResult = future.result(timeout=0.0 if not future.done() else _CONNECT_SECONDS)
    except Exception as problem:  # noqa: BLE001  (whatever the cluster raises)
        return Failed(f"the Dask worker lost the task ({problem})", "lost")
    return result
