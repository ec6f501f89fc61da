"""Runs independent tasks as Slurm jobs, one array element each, through submitit."""

import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from filelock import FileLock

from population.errors import InputError
from population.job_arrays import (
    Placed,
    Slurm,
    is_success,
    live_jobs,
    read_outcomes,
    read_queue,
    submit,
    submitted_before,
)

_C = TypeVar("_C")
#: Seconds between two looks at the queue, at most, and to wait for a last word.
_LOOK, _PATIENCE = 30, 5

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Failure:
    """Why a task is not done.

    Attributes:
        reason: one line.
        mendable: whether the user can mend it.
        log: what the job printed.
    """

    reason: str
    mendable: bool
    log: Path


class TasksFailedError(RuntimeError):
    """Some tasks failed; all others are done.

    Attributes:
        failures: by the index of the task.
    """

    def __init__(self, failures: Mapping[int, Failure]) -> None:
        super().__init__(f"{len(failures)} tasks failed")
        self.failures = failures


def check_slurm() -> None:
    """Raises InputError where no job can be submitted, or Slurm does not answer."""
    try:
        import submitit  # noqa: F401
    except ImportError as error:
        raise InputError("--executor slurm needs submitit: pip install 'pie-toolkit[slurm]'") from error
    for program in ("sbatch", "squeue", "srun"):
        if shutil.which(program) is None:
            raise InputError(f"--executor slurm: there is no {program} on this machine; allowed here: local")
    read_queue()


def run_on_slurm(
    task: Callable[[_C, int], None],
    shared: _C,
    names: Mapping[int, str],
    *,
    slurm: Slurm,
    threads: int,
    folder: Path,
) -> Iterator[int]:
    """Runs a task for every index, each in a job of its own; results go to the store, not through here.

    A task that an earlier process of this user has submitted under the same name, and that has not ended, is
    waited for and not submitted again. A task may run more than once, also at the same time: a machine that
    Slurm believes dead may be at work still. What it does has to allow for that, as the store does.

    Args:
        task: called as ``task(shared, index)`` in a process of a job.
        shared: pickled once, into a file that all jobs read.
        names: by index, what identifies a task and all that it depends on.
        slurm: what a job asks for.
        threads: of the CPU, for a job.
        folder: of job files and logs, on a file system that all machines see.

    Yields:
        Each index when it is done.

    Raises:
        TasksFailedError: when all tasks have ended, if some failed.
        InputError: if Slurm refuses the jobs, or the folder cannot be written.
    """
    if not names:
        return
    folder = folder.absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):  # a second process waits, and finds the jobs of the first one
            placed = submitted_before(names, folder)
            missing = {index: name for index, name in names.items() if index not in placed}
            if missing:
                placed |= submit(task, shared, missing, slurm=slurm, threads=threads, folder=folder)
    except OSError as error:
        raise InputError(f"cannot submit jobs with files in {folder}: {error.strerror or error}") from error
    yield from _wait(placed, folder)


def _wait(placed: Mapping[int, Placed], folder: Path) -> Iterator[int]:
    """Waits for all tasks; see ``run_on_slurm``."""
    waiting, failures = dict(placed), dict[int, Failure]()
    silent: dict[int, float] = {}  # tasks whose jobs ended without a word, and since when
    began, unreachable = time.monotonic(), False
    while waiting:
        time.sleep(min(_LOOK, max(1, (time.monotonic() - began) / 10)))
        try:
            queue = read_queue()
        except InputError as error:
            if not unreachable:
                _log.warning("%s; jobs go on, and so does the wait for them", error)
            unreachable = True
            continue
        # Read later than the queue: a job that has left it has written all that it will.
        outcomes = {array: read_outcomes(array) for array in {place.folder for place in waiting.values()}}
        for index, place in list(waiting.items()):
            outcome = outcomes[place.folder].get(place.position)
            job = queue.get(place.job)
            if is_success(outcome):
                del waiting[index]
                yield index
            elif job is not None and not job.ended:  # an outcome is that of an attempt before
                silent.pop(index, None)
            elif outcome is not None:
                failures[index] = Failure(outcome["failed"], outcome["mendable"], place.log)
                del waiting[index]
            elif time.monotonic() - silent.setdefault(index, time.monotonic()) >= _PATIENCE:
                state = "" if job is None else f" as {job.state}"
                failures[index] = Failure(f"job {place.job} ended{state} without a word", True, place.log)
                del waiting[index]
    with FileLock(folder / ".lock"), suppress(InputError):  # the next run tidies up as well
        live_jobs(folder)
    if failures:
        raise TasksFailedError(dict(sorted(failures.items())))
