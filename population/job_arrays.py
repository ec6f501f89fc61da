"""Job arrays: files that jobs are started from and write, and the queue that they wait in."""

import contextlib
import io
import json
import os
import pickle
import shutil
import subprocess
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from population.errors import InputError
from population.signals import stops_held
from population.store import file_digest

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission

_C = TypeVar("_C")
#: States of a job that is not going to run (again), as squeue names them.
_ENDED = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED",
    "TIMEOUT",
}  # fmt: skip
#: How often a task may run into its time limit. Of limits up to 10 minutes submitit counts every notice.
_TIMEOUTS = 100
#: Longest time in seconds from the notice to the time limit.
_NOTICE = 90


@dataclass(frozen=True)
class Slurm:
    """What a job asks for. Further options of sbatch can be said by its variables, such as SBATCH_ACCOUNT.

    Attributes:
        partition: where it runs (default: the cluster's).
        gpus: of a job.
        minutes: time limit of a job. A task that runs into it goes on in the same job, queued again.
    """

    partition: str | None
    gpus: int
    minutes: int


@dataclass(frozen=True)
class Placed:
    """A task that was submitted.

    Attributes:
        folder: of its job array.
        position: in the array.
        job: its id.
    """

    folder: Path
    position: int
    job: str

    @property
    def log(self) -> Path:
        """What the job prints, in all attempts."""
        return self.folder / f"{self.job}_0_log.out"


@dataclass(frozen=True)
class _Task:
    """What a job runs; made anew from submitit's job file in every attempt.

    Attributes:
        folder: of the job array.
        position: in the array.
        index: of the task.
        digest: of the file of what all tasks share.
    """

    folder: Path
    position: int
    index: int
    digest: str

    def __call__(self) -> None:
        if is_success(read_outcomes(self.folder).get(self.position)):
            return  # an attempt that Slurm gave up came to its end
        outcome = self.folder / f"{self.position}.outcome"
        outcome.unlink(missing_ok=True)
        try:
            content = self.folder / "shared.pkl"
            if file_digest(content) != self.digest:
                raise RuntimeError(f"{content} is not as it was written")
            task, shared = pickle.loads(content.read_bytes())  # noqa: S301 - written by submit
            task(shared, self.index)
        except Exception as error:
            reason = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
            _write(outcome, {"failed": " ".join(reason.split()), "mendable": isinstance(error, InputError)})
            raise  # so that the log has its traceback
        _write(outcome, {"failed": None})

    def checkpoint(self) -> "DelayedSubmission":
        """The next attempt after a notice; the task itself knows where it goes on from."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def submit(
    task: Callable[[_C, int], None],
    shared: _C,
    names: Mapping[int, str],
    *,
    slurm: Slurm,
    threads: int,
    folder: Path,
) -> dict[int, Placed]:
    """Submits an array with a job for each name; see ``run_on_slurm``."""
    import cloudpickle
    import submitit

    array = folder / uuid.uuid4().hex[:12]
    array.mkdir(mode=0o700)  # what is read as code is nobody else's to write
    (array / "shared.pkl").write_bytes(cloudpickle.dumps((task, shared)))
    # Before there are jobs: a process that is killed at any point finds them by the name they bear.
    _write(array / "tasks.json", list(names.values()))
    executor = submitit.SlurmExecutor(array, max_num_timeout=_TIMEOUTS)
    executor.update_parameters(
        job_name=_job_name(array),
        time=slurm.minutes,
        signal_delay_s=min(_NOTICE, slurm.minutes * 60 // 4),
        cpus_per_task=threads * max(1, slurm.gpus),  # a process for each
        array_parallelism=len(names),
        stderr_to_stdout=True,
        setup=[f"export {name}_NUM_THREADS={threads}" for name in ("OMP", "MKL", "OPENBLAS")],
        additional_parameters={"requeue": True},
        **({} if slurm.partition is None else {"partition": slurm.partition}),
        **({"gpus_per_node": slurm.gpus} if slurm.gpus else {}),
    )
    digest = file_digest(array / "shared.pkl")
    tasks = [_Task(array, position, index, digest) for position, index in enumerate(names)]
    kept = {n: v for n, v in os.environ.items() if n == "SLURM_CONF" or n.startswith("SBATCH_")}
    printed = io.StringIO()
    try:
        with (
            submitit.helpers.clean_env(),
            submitit.helpers.environment_variables(**kept),
            contextlib.redirect_stderr(printed),  # said below
            stops_held(),  # jobs whose files are not in place yet would fail
        ):
            jobs = executor.submit_array(tasks)
    except RuntimeError as error:
        shutil.rmtree(array)
        raise InputError(f"Slurm refuses the jobs: {printed.getvalue() or error}") from error
    return {t.index: Placed(array, t.position, j.job_id) for t, j in zip(tasks, jobs, strict=True)}


def submitted_before(names: Mapping[int, str], folder: Path) -> dict[int, Placed]:
    """The tasks that wait or run already."""
    indices, placed = {name: index for index, name in names.items()}, {}
    for array, elements in live_jobs(folder).items():
        tasks = json.loads((array / "tasks.json").read_text())
        for position, job in elements.items():
            index = indices.get(tasks[position])
            if index is not None:
                placed[index] = Placed(array, position, job)
    return placed


def live_jobs(folder: Path) -> dict[Path, dict[int, str]]:
    """Jobs that have work to do, by array and position; what all tasks of other arrays shared is removed."""
    queue, found = read_queue(), {}
    for array in [path for path in folder.iterdir() if path.is_dir()]:
        if not (array / "tasks.json").exists():  # left by a process that was killed before it submitted
            shutil.rmtree(array)
            continue
        outcomes, name = read_outcomes(array), _job_name(array)
        elements = {
            job.position: number
            for number, job in queue.items()
            if job.name == name and not job.ended and not is_success(outcomes.get(job.position))
        }
        if elements:
            found[array] = elements
        else:
            (array / "shared.pkl").unlink(missing_ok=True)
    return found


@dataclass(frozen=True)
class Job:
    """An entry of the queue.

    Attributes:
        state: as squeue names it.
        position: in its array.
        name: that it was given.
    """

    state: str
    position: int
    name: str

    @property
    def ended(self) -> bool:
        """Whether it is not going to run (again)."""
        return self.state in _ENDED


def read_queue() -> dict[str, Job]:
    """Jobs of this user that wait, run or ended a few minutes ago, by id."""
    command = ["squeue", "--me", "--array", "--states=all", "--noheader", "--format=%i|%T|%K|%j"]
    try:
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    except subprocess.CalledProcessError as error:
        raise InputError(f"Slurm does not answer: {_last_line(error.stderr)}") from error
    return parse_queue(printed)


def parse_queue(printed: str) -> dict[str, Job]:
    """Reads lines of id, state, position in an array (or N/A) and name, parted by bars."""
    found = {}
    for line in printed.splitlines():
        number, state, position, name = line.split("|", 3)
        found[number] = Job(state, int(position) if position.isdecimal() else 0, name)
    return found


def read_outcomes(array: Path) -> dict[int, dict[str, Any]]:
    """What tasks wrote at their ends, by position."""
    # Listed, as a file server is asked then; whether a single file exists is remembered for a while.
    found = {}
    for path in [path for path in array.iterdir() if path.suffix == ".outcome"]:
        with contextlib.suppress(FileNotFoundError):  # another attempt has just begun
            found[int(path.stem)] = json.loads(path.read_text())
    return found


def is_success(outcome: Mapping[str, Any] | None) -> bool:
    """Whether a task wrote that it is done."""
    return outcome is not None and outcome["failed"] is None


def _job_name(array: Path) -> str:
    return f"pie-{array.name}"


def _write(path: Path, content: object) -> None:
    """Writes JSON, whole or not at all."""
    partial = path.with_name(f"{path.name}-{uuid.uuid4().hex}.partial")
    partial.write_text(json.dumps(content))
    partial.replace(path)


def _last_line(text: object) -> str:
    return (str(text).strip().splitlines() or ["no reason given"])[-1]
