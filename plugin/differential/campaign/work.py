"""What a job does: tasks, one after another, in one lab machine at a time."""

from collections.abc import Callable

from nestscope.decoders.errors import NestscopeError
from nestscope.plugin.differential.campaign.defects import find_defects
from nestscope.plugin.differential.campaign.program import (
    StationLostError,
    StoppedError,
    run_program,
)
from nestscope.plugin.differential.campaign.record import shrink_and_record
from nestscope.plugin.differential.campaign.station import Station
from nestscope.plugin.differential.campaign.tasks import (
    Failed,
    Options,
    RunTask,
    Target,
    Task,
    TaskResult,
)
from nestscope.plugin.qemu.errors import LabFailure


class Job:
    """Does tasks. The machine of the last target stays booted for the next task."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._station: Station | None = None

    def do(self, task: Task, stop: Callable[[], bool] = lambda: False) -> TaskResult:
        """Do one task; `stop` is asked before every step. What fails is in the result."""
        try:
            station = self._at(task.target)
            if isinstance(task, RunTask):
                return run_program(station, task.operations, stop)
            return shrink_and_record(station, task, stop)
        except StoppedError:
            return Failed("the campaign was stopped", "stopped")
        except (StationLostError, LabFailure) as problem:
            # LabFailure: the machine failed while it booted, before any program.
            self.close()
            return Failed(str(problem), "lost")
        except (NestscopeError, OSError) as problem:
            self.close()
            return Failed(str(problem), "impossible")
        except Exception as error:  # noqa: BLE001  (a defect of ours must not look like a lost machine)
            self.close()
            what = f"internal error: {type(error).__name__}: {error}"
            return Failed(f"{what}; please report it", "impossible")

    def _at(self, target: Target) -> Station:
        if self._station is None or self._station.target != target:
            self.close()
            defects = find_defects(self._options.defects)
            self._station = Station(
                target,
                self._options,
                prepare=[defect.prepare for defect in defects],
                strikes=[defect.strike for defect in defects if defect.strike is not None],
            )
        return self._station

    def close(self) -> None:
        """End the machine."""
        station, self._station = self._station, None
        if station is not None:
            station.close()
