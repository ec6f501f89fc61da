"""Options that say what trains and compresses members."""

import os
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from population.errors import InputError, unknown_name
from population.spec import PopulationSpec

if TYPE_CHECKING:
    from population.job_arrays import Slurm

_EXECUTORS = ("local", "slurm")
#: Minutes that a job may take, by default.
_TIME = "240"


@dataclass(frozen=True)
class Execution:
    """What trains and compresses members.

    Attributes:
        executor: local (processes of this machine) or slurm (a job for each member; --store must be on a file
            system that all machines share).
        workers: processes side by side (default: one per core, on a GPU one); local only.
        gpus: that train a member together, each with its part of every batch (default: none with slurm, where
            they are those of a job; else one, where there is one).
        partition: of the jobs (default: the cluster's); slurm only.
        time: limit of a job, in minutes or HH:MM:SS (default: 240); what runs into it goes on in the queue's
            next turn; slurm only.
    """

    executor: str = "local"
    workers: int | None = None
    gpus: int | None = None
    partition: str | None = None
    time: str | None = None

    def __post_init__(self) -> None:
        if self.executor not in _EXECUTORS:
            raise unknown_name("executor", self.executor, _EXECUTORS)
        others = ("workers",) if self.executor == "slurm" else ("partition", "time")
        for name in others:
            if getattr(self, name) is not None:
                raise InputError(f"--{name} does not go with --executor {self.executor}")
        if self.workers is not None and self.workers < 1:
            raise InputError(f"--workers must be at least 1, not {self.workers}")
        if self.gpus is not None and self.gpus < 0:
            raise InputError(f"--gpus must not be negative, not {self.gpus}")
        self._minutes()

    def _minutes(self) -> int:
        """Time limit of a job; seconds are rounded up, as Slurm does."""
        found = re.fullmatch(r"(\d+)|(\d+):([0-5]\d):([0-5]\d)", _TIME if self.time is None else self.time)
        minutes = 0
        if found:
            plain, *clock = found.groups()
            hours, rest, seconds = (int(part or 0) for part in clock)
            minutes = int(plain or 0) + 60 * hours + rest + (seconds > 0)
        if minutes < 1:
            raise InputError(f"--time must be minutes or HH:MM:SS, at least a minute, not {self.time}")
        return minutes

    def slurm(self) -> "Slurm | None":
        """What each job asks for; None where members are not jobs."""
        if self.executor == "local":
            return None
        from population.job_arrays import Slurm
        from population.slurm import check_slurm

        check_slurm()
        return Slurm(self.partition, self.gpus or 0, self._minutes())

    def placed(self, population: PopulationSpec) -> PopulationSpec:
        """The population with the device of the machines that train it, where these options say it."""
        if self.executor == "local" and self.gpus is None:
            return population
        device = "cuda" if self.gpus else "cpu"
        if population.device not in ("auto", device):
            raise InputError(f"--device {population.device} does not go with --gpus {self.gpus or 0}")
        return replace(population, device=device)

    @property
    def devices(self) -> int:
        """How many of them train a member together."""
        return max(1, self.gpus or 0)

    def processes(self, device: str) -> int:
        """Number of worker processes."""
        return self.workers or (1 if device == "cuda" else len(os.sched_getaffinity(0)))
